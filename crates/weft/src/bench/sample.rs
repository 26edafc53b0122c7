//! Of many samples the one that counts.

/// The value that this share of them undercuts; not a number where there are none.
pub(super) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn disturbances_do_not_count_and_neither_does_luck() {
        let mut samples: Vec<f64> = (0..20).map(|number| 10.0 + f64::from(number % 3)).collect();
        samples[7] = 1.0;
        samples[8] = 500.0;
        assert_eq!(quantile(samples, 0.1), 10.0);
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert!(quantile(Vec::new(), 0.1).is_nan());
    }
}

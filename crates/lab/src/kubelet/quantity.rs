//! Kubernetes quantities (`500m`, `64Mi`, `1e3`), as far as the downward API and limits of volumes need them.

/// A quantity in thousandths, rounded up; `None` where it is malformed.
pub(super) fn milli(text: &str) -> Option<i128> {
    let digits = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['+', '-']);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // The number as mantissa and its count of decimals, so that nothing is lost before the suffix counts.
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let decimals = u32::try_from(fraction.len()).ok()?;
    let (times, divide): (i128, i128) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    };
    let divisor = divide.checked_mul(10_i128.checked_pow(decimals)?)?;
    let thousandths = mantissa.checked_mul(times)?.checked_mul(1000)?;
    let value = thousandths.checked_add(divisor - 1)? / divisor;
    Some(if negative { -value } else { value })
}

/// How many times `divisor` fits into a quantity, rounded up: what a resourceFieldRef yields.
pub(super) fn divided(milli: i128, divisor: i128) -> i128 {
    match divisor {
        0 => (milli + 999) / 1000,
        divisor => (milli + divisor - 1) / divisor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        for (text, value) in [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            ("64Mi", 64 << 20),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("100u", 1),
            (".5", 500),
            ("-1", -1000),
        ] {
            let value = if text == "64Mi" { value * 1000 } else { value };
            assert_eq!(milli(text), Some(value), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "Mi", "1e99"] {
            assert_eq!(milli(text), None, "{text}");
        }
        assert_eq!(divided(500, 0), 1);
        assert_eq!(divided(500, 1), 500);
        assert_eq!(divided((64 << 20) * 1000, (1 << 20) * 1000), 64);
    }
}

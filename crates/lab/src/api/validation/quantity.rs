//! Quantities such as `500m`, `1.5Gi` and `2e3`.

/// What the API server says of a quantity that it cannot read.
pub const MESSAGE: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The value of a quantity in thousandths, rounded up; `None` if it cannot be read.
pub fn millis(text: &str) -> Option<i128> {
    parse(text).map(|(nanos, _)| up(nanos, NANOS_PER_MILLI))
}

/// A quantity as the API server writes it: no fraction, and the largest suffix of its kind that allows that.
pub fn canonical(text: &str) -> Option<String> {
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let (nanos, suffix) = parse(text)?;
    if nanos == 0 {
        return Some("0".to_owned());
    }
    if suffix.ends_with('i') && nanos.unsigned_abs() >= 1024 * NANOS.unsigned_abs() {
        let (mantissa, power) = reduce(up(nanos, NANOS), 1024, BINARY.len() - 1);
        return Some(format!("{mantissa}{}", BINARY.get(power)?));
    }
    let (mantissa, power) = reduce(nanos, 1000, DECIMAL.len() - 1);
    let exponent = i64::try_from(power).ok()? * 3 - 9;
    if suffix.starts_with(['e', 'E']) && suffix != "E" && exponent != 0 {
        return Some(format!("{mantissa}e{exponent}"));
    }
    Some(format!("{mantissa}{}", DECIMAL.get(power)?))
}

const NANOS: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;

/// Divides out a base as often as it divides evenly, at most `limit` times.
fn reduce(mut value: i128, base: i128, limit: usize) -> (i128, usize) {
    let mut power = 0;
    while power < limit && value % base == 0 {
        value /= base;
        power += 1;
    }
    (value, power)
}

/// Division that rounds away from zero.
fn up(value: i128, by: i128) -> i128 {
    let magnitude = (value.abs() + (by - 1)) / by;
    if value < 0 { -magnitude } else { magnitude }
}

/// The value in billionths, rounded up, and the suffix.
fn parse(text: &str) -> Option<(i128, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits: i128 = match whole.len() + fraction.len() {
        0..=30 => format!("0{whole}{fraction}").parse().ok()?,
        _ => return None,
    };
    let scale = u32::try_from(fraction.len()).ok()?;
    let (numerator, denominator) = factor(suffix)?;
    let denominator = denominator.checked_mul(10i128.checked_pow(scale)?)?;
    let nanos = up(digits.checked_mul(numerator)?.checked_mul(NANOS)?, denominator);
    Some((if text.starts_with('-') { -nanos } else { nanos }, suffix))
}

/// What a suffix multiplies and divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024i128.pow(power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128
                .checked_pow(exponent.unsigned_abs())
                .filter(|_| exponent.unsigned_abs() <= 18)?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, want) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("-2", -2000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("5E-1", 500),
            ("1n", 1),
        ] {
            assert_eq!(millis(text), Some(want), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "--1", "1 Gi", "Gi", "1e", "1e99", "."] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn writes_them_as_the_api_server_does() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("100u", "100u"),
            ("2000e0", "2e3"),
            ("0", "0"),
            ("-1500m", "-1500m"),
            ("1E", "1E"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(want), "{text}");
        }
    }
}

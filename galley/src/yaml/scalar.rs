//! What an unquoted scalar means.
//!
//! Kubernetes reads YAML 1.1: `yes` and `on` are truth values there, and operators' files rely on the same answer everywhere.
//! Where the versions disagree about numbers (`010`, `1_000`), the text stays a text, and a field that wants a number says so.

use super::tree::Value;

pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

pub(super) fn number(text: &str) -> Option<Value> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let first = *body.as_bytes().first()?;
    if !(first.is_ascii_digit() || first == b'.') {
        return None;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = body.strip_prefix(prefix) {
            return digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| whole(negative, digits, radix)).flatten();
        }
    }
    if body.bytes().all(|b| b.is_ascii_digit()) {
        if body.len() > 1 && first == b'0' {
            return None;
        }
        return whole(negative, body, 10).or_else(|| float(text));
    }
    float(text)
}

fn whole(negative: bool, digits: &str, radix: u32) -> Option<Value> {
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative && magnitude > 0 {
        return 0i64.checked_sub_unsigned(magnitude).map(Value::Int);
    }
    Some(Value::UInt(magnitude))
}

fn float(text: &str) -> Option<Value> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !plain || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("1", Value::UInt(1))]
    #[case("-1", Value::Int(-1))]
    #[case("0", Value::UInt(0))]
    #[case("-0", Value::UInt(0))]
    #[case("0x10", Value::UInt(16))]
    #[case("18446744073709551615", Value::UInt(u64::MAX))]
    #[case("18446744073709551616", Value::Float(18_446_744_073_709_551_616.0))]
    #[case("-9223372036854775808", Value::Int(i64::MIN))]
    #[case("1.5", Value::Float(1.5))]
    #[case(".5", Value::Float(0.5))]
    #[case("1e3", Value::Float(1000.0))]
    #[case("on", Value::Bool(true))]
    #[case("No", Value::Bool(false))]
    #[case("~", Value::Null)]
    fn a_plain_scalar_has_the_type_that_kubernetes_sees(#[case] text: &str, #[case] value: Value) {
        assert_eq!(resolve(text), value);
    }

    #[rstest::rstest]
    #[case("v1")]
    #[case("010")]
    #[case("1_000")]
    #[case("1.2.3")]
    #[case("10.0.0.1")]
    #[case("y")]
    #[case(".")]
    #[case("-")]
    #[case("+-1")]
    #[case("1e999")]
    #[case(".nan")]
    #[case("0x")]
    #[case("0xzz")]
    #[case("2026-01-01")]
    #[case("5s")]
    fn everything_else_is_text(#[case] text: &str) {
        assert_eq!(resolve(text), Value::String(text.to_owned()));
    }
}

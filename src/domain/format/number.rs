//! The layout of a number in its field: sign, prefix, padding, grouped digits, and what follows the digits.

use super::FormatSpec;
use super::spec::{Align, Code, Sign};

/// A number in pieces, ready to be laid out.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) negative: bool,
    /// Such as `0x`.
    pub(super) prefix: &'static str,
    /// The digits before the point; none for `inf`, `nan` and characters.
    pub(super) digits: String,
    /// The point and all that follows.
    pub(super) rest: String,
}

/// Puts a number into the field that `spec` describes.
pub(super) fn lay_out(spec: &FormatSpec, number: &Number) -> String {
    let sign = match (number.negative, spec.sign) {
        (true, _) => "-",
        (false, Some(Sign::Plus)) => "+",
        (false, Some(Sign::Space)) => " ",
        (false, Some(Sign::Minus) | None) => "",
    };
    let align = spec.align.unwrap_or(if spec.zero { Align::AfterSign } else { Align::Right });
    let head = format!("{sign}{}", number.prefix);
    // Zeros that stand between the sign and the digits count as digits, and are grouped with them.
    let min_digits_width = if spec.fill == '0' && align == Align::AfterSign {
        let taken = head.chars().count() + number.rest.chars().count();
        spec.width.saturating_sub(taken)
    } else {
        0
    };
    let digits = match spec.grouping {
        Some(grouping) if !number.digits.is_empty() => {
            group(&number.digits, group_size(spec.code), grouping.separator(), min_digits_width)
        }
        _ => number.digits.clone(),
    };
    pad(spec, align, &head, &format!("{digits}{}", number.rest))
}

/// Pads `head` and `body` to the width; `=` pads between the two.
pub(super) fn pad(spec: &FormatSpec, align: Align, head: &str, body: &str) -> String {
    let length = head.chars().count() + body.chars().count();
    let missing = spec.width.saturating_sub(length);
    let (left, middle, right) = match align {
        Align::Left => (0, 0, missing),
        Align::Right => (missing, 0, 0),
        Align::Center => (missing / 2, 0, missing - missing / 2),
        Align::AfterSign => (0, missing, 0),
    };
    let fill = |count: usize| std::iter::repeat_n(spec.fill, count);
    let mut padded: String = fill(left).collect();
    padded.push_str(head);
    padded.extend(fill(middle));
    padded.push_str(body);
    padded.extend(fill(right));
    padded
}

/// Binary, octal and hexadecimal digits are grouped by four, decimal ones by three.
fn group_size(code: Code) -> usize {
    match code {
        Code::Char('b' | 'o' | 'x' | 'X') => 4,
        _ => 3,
    }
}

/// Groups digits from the right and adds zeros on the left until `min_width` is reached. The result can be one
/// longer than `min_width`, because a separator never stands first.
fn group(digits: &str, size: usize, separator: char, min_width: usize) -> String {
    let mut from_right = digits.chars().rev().peekable();
    let mut reversed = String::new();
    let mut length = 0;
    let mut in_group = 0;
    while from_right.peek().is_some() || length < min_width {
        if in_group == size {
            reversed.push(separator);
            length += 1;
            in_group = 0;
        }
        reversed.push(from_right.next().unwrap_or('0'));
        length += 1;
        in_group += 1;
    }
    reversed.chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_never_stands_first() {
        assert_eq!(group("234", 3, ',', 3), "234");
        assert_eq!(group("234", 3, ',', 4), "0,234");
        assert_eq!(group("234", 3, ',', 5), "0,234");
        assert_eq!(group("1", 4, '_', 9), "0000_0001");
    }
}

//! `vprintf`: the format string of C, with arguments from memory.

use std::fmt::Write;

/// Formats as C does. `argument(size)` reads the next argument of so many bytes, `string(address)` a string.
pub fn format(
    text: &[u8],
    mut argument: impl FnMut(u32) -> Option<u64>,
    mut string: impl FnMut(u64) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|b| b"-+ #0".contains(b)) {
            spec.flag(flag);
        }
        let mut number = |argument: &mut dyn FnMut(u32) -> Option<u64>| {
            if rest.next_if_eq(&b'*').is_some() {
                return argument(4).map(|v| Some(v as i32));
            }
            let mut value = None;
            while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
                value =
                    Some(value.unwrap_or(0i32).saturating_mul(10).saturating_add(i32::from(digit - b'0')));
            }
            Some(value)
        };
        if let Some(width) = number(&mut argument)? {
            spec.left |= width < 0;
            spec.width = width.unsigned_abs().min(4096) as usize;
        }
        if rest.next_if_eq(&b'.').is_some() {
            let mut digits = Some(0i32);
            while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
                digits = digits.map(|v| v.saturating_mul(10).saturating_add(i32::from(digit - b'0')));
            }
            if rest.next_if_eq(&b'*').is_some() {
                digits = Some(argument(4)? as i32);
            }
            spec.precision = digits.filter(|d| *d >= 0).map(|d| d.min(4096) as usize);
        }
        let (mut size, mut short) = (4, 0);
        while let Some(modifier) = rest.next_if(|b| b"hljzt".contains(b)) {
            match modifier {
                b'h' => short += 1,
                _ => size = 8,
            }
        }
        match rest.next() {
            Some(b'%') => out.push(b'%'),
            Some(b'd' | b'i') => {
                let value = argument(size)?;
                let value = match (size, short) {
                    (8, _) => value as i64,
                    (_, 0) => i64::from(value as i32),
                    (_, 1) => i64::from(value as i16),
                    _ => i64::from(value as i8),
                };
                spec.integer(&mut out, value < 0, value.unsigned_abs().to_string(), "");
            }
            Some(kind @ (b'u' | b'x' | b'X' | b'o')) => {
                let value = argument(size)?;
                let value = match (size, short) {
                    (8, _) => value,
                    (_, 0) => value & 0xffff_ffff,
                    (_, 1) => value & 0xffff,
                    _ => value & 0xff,
                };
                let (digits, prefix) = match kind {
                    b'x' => (format!("{value:x}"), "0x"),
                    b'X' => (format!("{value:X}"), "0X"),
                    b'o' => (format!("{value:o}"), "0"),
                    _ => (value.to_string(), ""),
                };
                spec.unsigned(&mut out, digits, if spec.alternate && value != 0 { prefix } else { "" });
            }
            Some(b'c') => spec.padded(&mut out, &[argument(4)? as u8]),
            Some(b'p') => spec.padded(&mut out, format!("{:#x}", argument(8)?).as_bytes()),
            Some(b's') => {
                let address = argument(8)?;
                let mut bytes = if address == 0 { b"(null)".to_vec() } else { string(address)? };
                bytes.truncate(spec.precision.unwrap_or(usize::MAX));
                spec.padded(&mut out, &bytes);
            }
            Some(kind @ (b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A')) => {
                let value = f64::from_bits(argument(8)?);
                let mut digits = spec.float(value.abs(), kind.to_ascii_lowercase());
                if kind.is_ascii_uppercase() {
                    digits.make_ascii_uppercase();
                }
                spec.zero &= value.is_finite();
                spec.precision = None;
                spec.integer(&mut out, value.is_sign_negative() && !value.is_nan(), digits, "");
            }
            // What C leaves undefined is printed as it stands.
            Some(other) => out.extend([b'%', other]),
            None => out.push(b'%'),
        }
    }
    Some(out)
}

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn flag(&mut self, flag: u8) {
        match flag {
            b'-' => self.left = true,
            b'+' => self.plus = true,
            b' ' => self.space = true,
            b'#' => self.alternate = true,
            _ => self.zero = true,
        }
    }

    fn padded(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        let padding = vec![b' '; self.width.saturating_sub(bytes.len())];
        let (first, second) = if self.left { (bytes, &padding[..]) } else { (&padding[..], bytes) };
        out.extend_from_slice(first);
        out.extend_from_slice(second);
    }

    fn integer(&self, out: &mut Vec<u8>, negative: bool, digits: String, prefix: &str) {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        self.unsigned(out, digits, &format!("{sign}{prefix}"));
    }

    fn unsigned(&self, out: &mut Vec<u8>, digits: String, prefix: &str) {
        let wanted = match self.precision {
            Some(precision) => precision,
            None if self.zero && !self.left => self.width.saturating_sub(prefix.len()),
            None => 0,
        };
        let zeros = "0".repeat(wanted.saturating_sub(digits.len()));
        self.padded(out, format!("{prefix}{zeros}{digits}").as_bytes());
    }

    /// Digits of a number that is not negative.
    fn float(&self, value: f64, kind: u8) -> String {
        if value.is_nan() {
            return "nan".into();
        }
        if value.is_infinite() {
            return "inf".into();
        }
        let precision = self.precision.unwrap_or(6);
        match kind {
            b'f' => format!("{value:.precision$}"),
            b'e' => exponential(value, precision),
            b'a' => hexadecimal(value),
            _ => {
                let precision = precision.max(1);
                let scientific = exponential(value, precision - 1);
                let exponent =
                    scientific.split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or(0);
                if exponent < -4 || exponent >= precision as i32 {
                    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
                    format!("{}e{exponent}", self.trimmed(digits))
                } else {
                    let places = (precision as i32 - 1 - exponent).max(0) as usize;
                    self.trimmed(&format!("{value:.places$}")).to_owned()
                }
            }
        }
    }

    /// Without the zeros that `%g` leaves out.
    fn trimmed<'t>(&self, digits: &'t str) -> &'t str {
        if self.alternate || !digits.contains('.') {
            return digits;
        }
        digits.trim_end_matches('0').trim_end_matches('.')
    }
}

/// `%e`: at least two digits of exponent, and its sign.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%a`
fn hexadecimal(value: f64) -> String {
    let bits = value.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52 & 0x7ff) as i32);
    let (lead, exponent) = match (biased, fraction) {
        (0, 0) => (0, 0),
        (0, _) => (0, -1022),
        _ => (1, biased - 1023),
    };
    let mut text = format!("0x{lead}");
    if fraction != 0 {
        let _ = write!(text, ".{}", format!("{fraction:013x}").trim_end_matches('0'));
    }
    let _ = write!(text, "p{exponent:+}");
    text
}

#[cfg(test)]
mod tests {
    use super::format;

    fn printed(text: &str, arguments: &[u64]) -> String {
        let mut next = arguments.iter();
        let bytes = format(text.as_bytes(), |_| next.next().copied(), |_| Some(b"warp".to_vec()));
        String::from_utf8(bytes.expect("enough arguments")).expect("text")
    }

    #[test]
    fn formats_as_c_does() {
        let double = |v: f64| v.to_bits();
        assert_eq!(
            printed("%d|%5d|%-5d|%05d|%+d", &[u64::from(-7i32 as u32), 42, 42, 42, 42]),
            "-7|   42|42   |00042|+42"
        );
        assert_eq!(
            printed("%u %x %#X %o %lld", &[u64::from(u32::MAX), 255, 255, 8, -1i64 as u64]),
            "4294967295 ff 0XFF 10 -1"
        );
        assert_eq!(
            printed("%f %.2f %8.3f|", &[double(1.5), double(-2.345), double(0.1)]),
            "1.500000 -2.35 ".to_owned() + "   0.100|"
        );
        assert_eq!(
            printed("%e %g %g %g", &[double(12345.678), double(0.0001), double(1e-5), double(1e20)]),
            "1.234568e+04 0.0001 1e-05 1e+20"
        );
        assert_eq!(printed("%g %g", &[double(100000.0), double(1234567.0)]), "100000 1.23457e+06");
        assert_eq!(printed("%s|%6s|%.2s|%c|%%", &[1, 1, 1, u64::from(b'x')]), "warp|  warp|wa|x|%");
        assert_eq!(
            printed("%a %f %f", &[double(1.5), double(f64::INFINITY), double(f64::NAN)]),
            "0x1.8p+0 inf nan"
        );
        assert_eq!(printed("%hhd %hd %*d", &[0xff, 0xffff, 4, 1]), "-1 -1    1");
    }

    #[test]
    fn too_few_arguments_are_no_panic() {
        assert_eq!(format(b"%d %s", |_| None, |_| None), None);
    }
}

//! Expiry times in a response: of the response itself (`expires_at`), and of the URLs in it. The URL of a generated image works for an
//! hour. Both limit how long the response is stored. A time that cannot be read counts as past.

use crate::json::cursor::JsonCursor;
use crate::routing::endpoint::{Computation, Endpoint};
use percent_encoding::percent_decode_str;
use std::time::{SystemTime, UNIX_EPOCH};

/// The lifetime of a URL that does not state its own, in milliseconds (OpenAI API reference, "Create image").
const URL_MS: u64 = 3_600_000;
/// The number of levels of a response that are searched.
const MAX_DEPTH: usize = 8;

/// Members whose JSON is the model's or the client's own.
const CONTENT: [&str; 6] = ["args", "arguments", "input", "metadata", "parameters", "response_format"];

/// Until when the response is valid, in milliseconds since 1970; `None`: unknown. `text`: JSON.
pub fn valid_until(endpoint: Endpoint, text: &str, now: u64) -> Option<u64> {
    const SIGNS: [&str; 9] = ["xpir", "XPIR", "alid", "ALID", "fter", "FTER", "ntil", "://", ":\\/\\/"];
    let has_dates = SIGNS.iter().any(|sign| text.contains(sign));
    let mut found = None;
    if has_dates {
        let images = endpoint == Endpoint::Compute(Computation::Images);
        Search { images, now, earliest: &mut found }.visit(JsonCursor::root(text), MAX_DEPTH);
    }
    found
}

struct Search<'a> {
    images: bool,
    now: u64,
    earliest: &'a mut Option<u64>,
}

impl Search<'_> {
    fn visit(&mut self, value: JsonCursor<'_>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        for item in value.items() {
            self.visit_value(item, depth);
        }
        for member in value.members() {
            let name = member.key.as_string().unwrap_or_default();
            match Expiry::named(&name) {
                Some(expiry) if !member.value.is_object() && !member.value.is_array() => {
                    self.found(expiry.end(member.value, self.now));
                }
                _ if CONTENT.contains(&name.as_str()) => {}
                _ => self.visit_value(member.value, depth),
            }
        }
    }

    fn visit_value(&mut self, value: JsonCursor<'_>, depth: usize) {
        if value.is_string() {
            self.found(self.url(value));
        } else {
            self.visit(value, depth);
        }
    }

    fn found(&mut self, end: Option<u64>) {
        *self.earliest = end.into_iter().chain(*self.earliest).min();
    }

    fn url(&self, value: JsonCursor<'_>) -> Option<u64> {
        let is_url =
            |text: &String| text.starts_with("http") && text.contains("://") && !text.contains(char::is_whitespace);
        let url = value.as_string().filter(is_url)?;
        let image = self.images.then(|| self.now.saturating_add(URL_MS));
        image.into_iter().chain(signed_until(&url, self.now)).min()
    }
}

/// What a member with an expiry time has, by its name.
enum Expiry {
    /// A number of seconds or milliseconds since 1970, or a date.
    At,
    /// So many milliseconds later, times its number.
    After(f64),
}

impl Expiry {
    /// A list of names cannot be complete, so the words in them decide: `expires_at`, `ExpirationDate`, `valid-until`, …
    fn named(name: &str) -> Option<Expiry> {
        const ENDS: [&str; 6] = ["validuntil", "validto", "validthrough", "notafter", "availableuntil", "deleteafter"];
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
        let of = |ending: &str| name.ends_with(ending);
        if !name.contains("expir") && !ENDS.iter().any(|end| name.contains(end)) {
            return None;
        }
        let is_relative =
            ["in", "after", "seconds", "secs", "ttl"].iter().any(|word| of(word)) || name.contains("expiresin");
        Some(match is_relative && !ENDS.iter().any(|end| of(end)) {
            true if of("ms") || of("millis") || of("milliseconds") => Expiry::After(1.0),
            true => Expiry::After(1_000.0),
            false => Expiry::At,
        })
    }

    fn end(&self, value: JsonCursor<'_>, now: u64) -> Option<u64> {
        match self {
            Expiry::At => time(value, now),
            Expiry::After(unit) => match number(value) {
                // Too many for a duration: a time.
                Some(number) if number >= 1e9 => Some(since_1970(number)),
                Some(number) => Some(now.saturating_add(millis(number * unit))),
                None => time(value, now),
            },
        }
    }
}

/// A time in milliseconds since 1970. `None`: never.
fn time(value: JsonCursor<'_>, now: u64) -> Option<u64> {
    if let Some(number) = number(value) {
        return (number > 0.0).then(|| since_1970(number));
    }
    let text = value.as_string().filter(|text| !text.is_empty())?;
    // `expires_in: "60"` is a number of seconds.
    let number =
        |number: f64| if number < 1e9 { now.saturating_add(millis(number * 1000.0)) } else { since_1970(number) };
    Some(text.parse().map(number).ok().or_else(|| date(&text)).unwrap_or(now))
}

fn number(value: JsonCursor<'_>) -> Option<f64> {
    value.text().parse().ok()
}

/// Seconds or milliseconds, told apart by their size.
fn since_1970(number: f64) -> u64 {
    const LEAST_MILLISECONDS: f64 = 1e11;
    millis(if number < LEAST_MILLISECONDS { number * 1000.0 } else { number })
}

// `as` saturates and cannot fail.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn millis(number: f64) -> u64 {
    number as u64
}

/// A date as RFC 3339 or RFC 9110 write it. One without an offset is in UTC.
fn date(text: &str) -> Option<u64> {
    let since_1970 = |date: SystemTime| u64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok();
    if let Ok(date) = httpdate::parse_http_date(text) {
        return since_1970(date);
    }
    let (local, offset_ms) = split_offset(text).unwrap_or((text, 0));
    let date = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase()).ok()?;
    since_1970(date)?.checked_add_signed(offset_ms.checked_neg()?)
}

/// `2026-11-24T19:30:00+02:00` as the date before the offset and the offset in milliseconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, (hours, minutes)) = (offset.get(..1)?, offset.get(1..)?.split_once(':')?);
    let minutes = hours.parse::<i64>().ok()?.checked_mul(60)?.checked_add(minutes.parse().ok()?)?;
    let ms = minutes.checked_mul(60_000)?;
    match sign {
        "+" => Some((local, ms)),
        "-" => Some((local, ms.checked_neg()?)),
        _ => None,
    }
}

/// When a signed URL ends: S3 and its like (`X-Amz-Date` and `X-Amz-Expires`, or `Expires`), Azure (`se`), or any time to come that
/// it names. An hour where a signature does not say.
fn signed_until(url: &str, now: u64) -> Option<u64> {
    const SIGNATURES: [&str; 6] = ["sig", "sign", "token", "policy", "hmac", "signature"];
    let (_, query) = url.split_once('?')?;
    let mut signed_at = None;
    let (mut ends_at, mut seconds) = (None, None);
    let mut is_signed = false;
    for (name, value) in query.split(['&', '#']).filter_map(|pair| pair.split_once('=')) {
        let name = name.to_ascii_lowercase();
        let value = percent_decode_str(value).decode_utf8().ok()?;
        is_signed |= SIGNATURES.iter().any(|word| name.ends_with(word));
        match name.as_str() {
            "se" => ends_at = date(&value),
            _ if name.ends_with("-date") => signed_at = compact_date(&value),
            _ if name.contains("expir") || name == "exp" => match value.parse::<f64>().ok() {
                // A number of seconds since 1970, or one from the date of the signature.
                Some(number) if number >= 1e9 => ends_at = Some(since_1970(number)),
                Some(number) => seconds = Some(number),
                None => ends_at = Some(date(&value).unwrap_or(now)),
            },
            _ => ends_at = times_to_come(&value, now).chain(ends_at).min(),
        }
    }
    let lasts = seconds.map(|seconds| signed_at.unwrap_or(now).saturating_add(millis(seconds * 1000.0)));
    let unknown = (is_signed && ends_at.is_none() && lasts.is_none()).then(|| now.saturating_add(URL_MS));
    ends_at.into_iter().chain(lasts).chain(unknown).min()
}

/// Numbers of seconds since 1970 in a text that are not past: `q-sign-time=1800000000;1800003600`.
fn times_to_come(text: &str, now: u64) -> impl Iterator<Item = u64> + '_ {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| matches!(digits.len(), 10 | 13));
    numbers.filter_map(|digits| digits.parse().ok().map(since_1970)).filter(move |time| *time > now)
}

/// `20261124T193000Z`.
fn compact_date(text: &str) -> Option<u64> {
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (day, hour) = ((part(0..4)?, part(4..6)?, part(6..8)?), (part(9..11)?, part(11..13)?, part(13..15)?));
    date(&format!("{}-{}-{}T{}:{}:{}Z", day.0, day.1, day.2, hour.0, hour.1, hour.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn of(endpoint: Endpoint, text: &str) -> Option<u64> {
        valid_until(endpoint, text, NOW)
    }

    #[test]
    fn a_body_may_have_an_expiry_time() {
        for (text, end) in [
            (r#"{"expires_at":1800000060}"#, Some(NOW + 60_000)),
            (r#"{"expires_at":1800000060.5}"#, Some(NOW + 60_500)),
            (r#"{"expiresAt":1800000060000}"#, Some(NOW + 60_000)),
            (r#"{"a":[{"expires_at":"1800000060"}]}"#, Some(NOW + 60_000)),
            (r#"{"a":{"expires_at":"2027-01-15T08:01:00Z"}}"#, Some(NOW + 60_000)),
            (r#"{"expires":"2027-01-15T10:01:00.000+02:00"}"#, Some(NOW + 60_000)),
            (r#"{"expires":"2027-01-15t02:31:00-05:30"}"#, Some(NOW + 60_000)),
            (r#"{"expires":"2027-01-15t08:01:00.250z"}"#, Some(NOW + 60_250)),
            (r#"{"expires":"2027-01-15T08:01:00"}"#, Some(NOW + 60_000)),
            (r#"{"expires":"2027-01-15 08:01:00"}"#, Some(NOW + 60_000)),
            (r#"{"valid_until":"Fri, 15 Jan 2027 08:01:00 GMT"}"#, Some(NOW + 60_000)),
            (r#"{"expires_in":60}"#, Some(NOW + 60_000)),
            (r#"{"expires_at":1,"a":{"expires_at":1800000060}}"#, Some(1_000)),
            (r#"{"expires_at":"soon"}"#, Some(NOW)),
            (r#"{"expirationDate":"2027-01-15T08:01:00Z"}"#, Some(NOW + 60_000)),
            (r#"{"expires_on":1800000060}"#, Some(NOW + 60_000)),
            (r#"{"ExpiresOn":"1800000060"}"#, Some(NOW + 60_000)),
            (r#"{"url_expires_at":1800000060}"#, Some(NOW + 60_000)),
            (r#"{"EXPIRES-AT":1800000060}"#, Some(NOW + 60_000)),
            (r#"{"expiry_time_ms":1800000060000}"#, Some(NOW + 60_000)),
            (r#"{"valid_to":1800000060}"#, Some(NOW + 60_000)),
            (r#"{"notAfter":"2027-01-15T08:01:00Z"}"#, Some(NOW + 60_000)),
            (r#"{"expires_in_seconds":60}"#, Some(NOW + 60_000)),
            (r#"{"expiresInMs":60000}"#, Some(NOW + 60_000)),
            (r#"{"url_expires_in":"60"}"#, Some(NOW + 60_000)),
            (r#"{"expires_after":60}"#, Some(NOW + 60_000)),
            (r#"{"expires_after":{"anchor":"last_active_at","days":7}}"#, None),
            (r#"{"expired":false,"is_expired":null}"#, None),
            (r#"{"expires_at":null,"expiry":"","expiration":false,"expires":0}"#, None),
            (r#"{"content":[{"input":{"expires_at":1}}],"metadata":{"expires_at":1}}"#, None),
            (r#"{"content":"{\"expires_at\":1}"}"#, None),
        ] {
            assert_eq!(of(Endpoint::ChatCompletions, text), end, "{text}");
        }
    }

    #[test]
    fn the_url_of_an_image_works_for_an_hour() {
        let images = Endpoint::Compute(Computation::Images);
        assert_eq!(of(images, r#"{"data":[{"url":"https:\/\/a/b"}]}"#), Some(NOW + 3_600_000));
        assert_eq!(of(images, r#"{"data":[{"b64_json":"AA=="}]}"#), None);
        for text in [
            r#"{"url":"https://a/b"}"#,
            r#"{"url":"https://a/b?v=1700000000&page=2"}"#,
            r#"{"a":"see https://h/?token=t"}"#,
        ] {
            assert_eq!(of(Endpoint::ChatCompletions, text), None, "{text}");
        }
        assert_eq!(of(Endpoint::Custom, r#"{"output":["https://a/b?exp=1800000060"]}"#), Some(NOW + 60_000));
        for (query, end) in [
            ("X-Amz-Date=20270115T080000Z&X-Amz-Expires=60", NOW + 60_000),
            ("X-Goog-Expires=60&X-Goog-Date=20270115T075900Z", NOW),
            ("Expires=1800000060&Signature=s", NOW + 60_000),
            ("se=2027-01-15T08%3A01%3A00Z&sig=s", NOW + 60_000),
            ("x-oss-expires=60", NOW + 60_000),
            ("q-sign-time=1799996400%3B1800000060&q-signature=s", NOW + 60_000),
            ("e=1800000060&token=t", NOW + 60_000),
            ("hdnts=exp=1800000060~acl=/*~hmac=h", NOW + 60_000),
            ("Expires=2027-01-15T08%3A01%3A00Z", NOW + 60_000),
            ("expires_at=1800000060", NOW + 60_000),
            ("Policy=p&Signature=s&Key-Pair-Id=k", NOW + 3_600_000),
            ("token=t", NOW + 3_600_000),
            ("validity=1800000060000", NOW + 60_000),
        ] {
            let text = format!(r#"{{"a":[{{"image_url":"https://h/i.png?{query}"}}]}}"#);
            assert_eq!(of(Endpoint::ChatCompletions, &text), Some(end), "{query}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let text = format!("{}\"https://\":{{\"expires_at\":1}}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert_eq!(of(Endpoint::Custom, &text), None);
    }
}

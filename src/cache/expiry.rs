//! Expiry times in a response: of the response itself (`expires_at`), and of the URLs in it. The URL of a generated image works for an
//! hour. Both limit how long the response is stored. A time that cannot be read counts as past.

use crate::json::cursor::JsonCursor;
use crate::routing::endpoint::{Computation, Endpoint};
use percent_encoding::percent_decode_str;
use std::time::{SystemTime, UNIX_EPOCH};

/// The lifetime of a generated image's URL, in milliseconds (OpenAI API reference, "Create image").
const IMAGE_URL_MS: u64 = 3_600_000;
/// The number of levels of a response that are searched.
const MAX_DEPTH: usize = 8;

/// Members with an expiry time: a number of seconds or milliseconds since 1970, or a date.
const ABSOLUTE: [&str; 13] = [
    "expires_at",
    "expiresAt",
    "expire_at",
    "expireAt",
    "expire_time",
    "expireTime",
    "expiration_time",
    "expirationTime",
    "expiration",
    "expires",
    "expiry",
    "valid_until",
    "validUntil",
];

/// Members with a number of seconds until the expiry.
const RELATIVE: [&str; 2] = ["expires_in", "expiresIn"];

/// Members whose JSON is the model's or the client's own.
const CONTENT: [&str; 6] = ["args", "arguments", "input", "metadata", "parameters", "response_format"];

/// Until when the response is valid, in milliseconds since 1970; `None`: unknown. `text`: JSON.
pub fn valid_until(endpoint: Endpoint, text: &str, now: u64) -> Option<u64> {
    let has_dates = ["xpir", "alid_until", "alidUntil", "://", ":\\/\\/"].iter().any(|sign| text.contains(sign));
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
        for item in value.items().filter(|item| item.is_object() || item.is_array()) {
            self.visit(item, depth);
        }
        for member in value.members() {
            let is = |names: &[&str]| names.iter().any(|name| member.key.eq_str(name));
            let end = if is(&ABSOLUTE) {
                time(member.value, self.now)
            } else if is(&RELATIVE) {
                number(member.value).map(|seconds| self.now.saturating_add(millis(seconds * 1000.0)))
            } else if member.value.is_string() {
                self.url(member.key, member.value)
            } else if !is(&CONTENT) {
                self.visit(member.value, depth);
                None
            } else {
                None
            };
            *self.earliest = end.into_iter().chain(*self.earliest).min();
        }
    }

    fn url(&self, key: JsonCursor<'_>, value: JsonCursor<'_>) -> Option<u64> {
        let name = key.as_string()?.to_ascii_lowercase();
        if !["url", "uri", "link", "href"].iter().any(|ending| name.ends_with(ending)) {
            return None;
        }
        let url = value.as_string().filter(|url| url.starts_with("http"))?;
        let image = self.images.then(|| self.now.saturating_add(IMAGE_URL_MS));
        image.into_iter().chain(signed_until(&url, self.now)).min()
    }
}

/// A time in milliseconds since 1970. `None`: never.
fn time(value: JsonCursor<'_>, now: u64) -> Option<u64> {
    if let Some(number) = number(value) {
        return (number > 0.0).then(|| since_1970(number));
    }
    let text = value.as_string().filter(|text| !text.is_empty())?;
    Some(text.parse().map(since_1970).ok().or_else(|| date(&text)).unwrap_or(now))
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

/// When the signature of a URL ends: S3 and its like (`X-Amz-Date` and `X-Amz-Expires`, or `Expires`), Azure (`se`).
fn signed_until(url: &str, now: u64) -> Option<u64> {
    let (_, query) = url.split_once('?')?;
    let mut signed_at = None;
    let (mut ends_at, mut seconds) = (None, None);
    for (name, value) in query.split(['&', '#']).filter_map(|pair| pair.split_once('=')) {
        let name = name.to_ascii_lowercase();
        let value = percent_decode_str(value).decode_utf8().ok()?;
        match name.as_str() {
            "se" => ends_at = date(&value),
            _ if name.ends_with("-date") => signed_at = compact_date(&value),
            _ if name.ends_with("expires") || matches!(name.as_str(), "exp" | "expiry" | "expire" | "expiration") => {
                // A number of seconds since 1970, or one from the date of the signature.
                match value.parse::<f64>().ok() {
                    Some(number) if number >= 1e9 => ends_at = Some(since_1970(number)),
                    number => seconds = number,
                }
            }
            _ => {}
        }
    }
    let lasts = seconds.map(|seconds| signed_at.unwrap_or(now).saturating_add(millis(seconds * 1000.0)));
    ends_at.into_iter().chain(lasts).min()
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
        assert_eq!(of(Endpoint::ChatCompletions, r#"{"url":"https://a/b"}"#), None);
        for (query, end) in [
            ("X-Amz-Date=20270115T080000Z&X-Amz-Expires=60", NOW + 60_000),
            ("X-Goog-Expires=60&X-Goog-Date=20270115T075900Z", NOW),
            ("Expires=1800000060&Signature=s", NOW + 60_000),
            ("se=2027-01-15T08%3A01%3A00Z&sig=s", NOW + 60_000),
            ("x-oss-expires=60", NOW + 60_000),
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

//! The operator's endpoints, which require `ADMIN_TOKEN`.

use crate::key::CacheKey;
use crate::status::error::{ErrorKind, ProxyError};
use http::Method;
use percent_encoding::percent_decode_str;

/// The number of entries that one call deletes by default: each is an operation, and the free plan allows 50 in a request.
const DEFAULT_LIMIT: usize = 40;
/// The most that a call may request: the Workers runtime allows 1,000 operations.
const MAX_LIMIT: usize = 900;

/// A command of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminCommand {
    /// `GET /metrics`.
    Metrics,
    /// `GET /admin/ledger?…`: the query, which the ledger reads.
    Ledger(String),
    /// `GET /admin/entries?…`: likewise.
    Entries(String),
    /// `GET /admin/status`.
    Status,
    /// `DELETE /admin/cache/{key}`.
    Delete(CacheKey),
    /// `DELETE /admin/cache?namespace=…`.
    Purge(Purge),
}

/// One step in the deletion of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The namespace, as in `X-Proxy-Namespace`.
    pub namespace: Vec<u8>,
    /// The end of the previous step. Only the store understands it.
    pub cursor: Option<String>,
    /// The most entries that are scanned, if the store can limit that.
    pub limit: usize,
}

/// The page that shows what the ledger holds.
const DASHBOARD: &str = "/dashboard";

/// Whether a request is for the page, which holds no data: it needs no token.
pub fn is_dashboard(method: &Method, path: &str) -> bool {
    path == DASHBOARD && matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a path is one of the operator's endpoints.
pub fn is_admin_path(path: &str) -> bool {
    matches!(path, "/metrics" | DASHBOARD | "/admin") || path.starts_with("/admin/")
}

/// Reads a command. `None`: there is no such endpoint.
///
/// # Errors
/// [`ErrorKind::InvalidParameter`], naming the parameter that cannot be read.
pub fn command(method: &Method, path: &str, query: Option<&str>) -> Result<Option<AdminCommand>, ProxyError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads {
        let query = || query.unwrap_or_default().to_owned();
        return Ok(match path {
            "/metrics" => Some(AdminCommand::Metrics),
            "/admin/ledger" => Some(AdminCommand::Ledger(query())),
            "/admin/entries" => Some(AdminCommand::Entries(query())),
            "/admin/status" => Some(AdminCommand::Status),
            _ => None,
        });
    }
    if *method != Method::DELETE {
        return Ok(None);
    }
    match path.strip_prefix("/admin/cache") {
        Some("" | "/") => purge(query.unwrap_or_default()).map(|purge| Some(AdminCommand::Purge(purge))),
        Some(key) => {
            let key = key.strip_prefix('/').and_then(CacheKey::from_hex);
            let error = || invalid("The key must be the 64 hexadecimal digits that Cache-Status shows.");
            key.map(|key| Some(AdminCommand::Delete(key))).ok_or_else(error)
        }
        None => Ok(None),
    }
}

fn purge(query: &str) -> Result<Purge, ProxyError> {
    let mut namespace = None;
    let mut cursor = None;
    let mut limit = DEFAULT_LIMIT;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8().map_err(|_| invalid("A parameter is not UTF-8."))?;
        match name {
            // Trimmed like the header.
            "namespace" => namespace = Some(value.trim().as_bytes().to_vec()),
            "cursor" => cursor = Some(value.into_owned()).filter(|cursor| !cursor.is_empty()),
            "limit" => {
                let number = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                limit = number.ok_or_else(|| invalid("The parameter limit must be a number from 1 to 900."))?;
            }
            _ => return Err(invalid("The parameters are namespace, cursor and limit.")),
        }
    }
    let message = "Name the namespace to delete: ?namespace=…, empty for entries without one.";
    let namespace = namespace.ok_or_else(|| invalid(message))?;
    Ok(Purge { namespace, cursor, limit })
}

fn invalid(message: &str) -> ProxyError {
    ProxyError::new(ErrorKind::InvalidParameter, message)
}

/// The error for a store that fails.
pub fn store_failed() -> ProxyError {
    let message = "The store failed or did not respond in time. Call again with the last cursor.";
    ProxyError::new(ErrorKind::StoreFailed, message)
}

/// The error for a ledger that fails.
pub fn ledger_failed() -> ProxyError {
    ProxyError::new(ErrorKind::LedgerFailed, "The ledger failed or did not respond in time. Try again.")
}

/// The error where no ledger is bound.
pub fn ledger_missing() -> ProxyError {
    let message = "Nothing is counted: bind the Durable Object Ledger as LEDGER, as in wrangler.toml.";
    ProxyError::new(ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletes(target: &str) -> Result<Option<AdminCommand>, ErrorKind> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        command(&Method::DELETE, path, query).map_err(|error| error.kind)
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(command(&Method::GET, "/metrics", None), Ok(Some(AdminCommand::Metrics)));
        let asked = command(&Method::GET, "/admin/ledger", Some("by=day"));
        assert_eq!(asked, Ok(Some(AdminCommand::Ledger("by=day".to_owned()))));
        assert_eq!(command(&Method::GET, "/admin/entries", None), Ok(Some(AdminCommand::Entries(String::new()))));
        assert_eq!(command(&Method::GET, "/admin/status", None), Ok(Some(AdminCommand::Status)));
        let purge = |namespace: &str, cursor: Option<&str>, limit| {
            let (namespace, cursor) = (namespace.as_bytes().to_vec(), cursor.map(str::to_owned));
            Ok(Some(AdminCommand::Purge(Purge { namespace, cursor, limit })))
        };
        assert_eq!(
            deletes("/admin/cache?namespace=a%20b+c%2B&cursor=x%3D"),
            purge("a b c+", Some("x="), DEFAULT_LIMIT)
        );
        assert_eq!(deletes("/admin/cache?namespace=&limit=900&cursor="), purge("", None, 900));
        let key = "0123456789abcdef".repeat(4);
        let deletion = Ok(Some(AdminCommand::Delete(CacheKey::from_hex(&key).unwrap())));
        assert_eq!(deletes(&format!("/admin/cache/{key}")), deletion);
    }

    #[test]
    fn the_page_is_only_read() {
        assert!(is_dashboard(&Method::GET, "/dashboard") && is_dashboard(&Method::HEAD, "/dashboard"));
        assert!(!is_dashboard(&Method::POST, "/dashboard") && !is_dashboard(&Method::GET, "/dashboard/"));
    }

    #[test]
    fn an_invalid_command_deletes_nothing() {
        for target in
            ["/admin/cache", "/admin/cache?", "/admin/cache?namespace=a&limit=0", "/admin/cache?namespace=a&x=1"]
        {
            assert_eq!(deletes(target), Err(ErrorKind::InvalidParameter), "{target}");
        }
        for key in ["x", "0123", "../0", "*"] {
            assert_eq!(deletes(&format!("/admin/cache/{key}")), Err(ErrorKind::InvalidParameter), "{key}");
        }
        assert_eq!(deletes("/admin"), Ok(None));
        assert_eq!(deletes("/metrics"), Ok(None));
        assert_eq!(command(&Method::GET, "/admin/cache", Some("namespace=a")), Ok(None));
    }
}

//! Does a JSON body with a good status report an error, or a job whose result is still to come?

use super::is_filled;
use crate::json::cursor::JsonCursor;

/// Whether a response, or an event of one, reports an error beside or in place of its result.
pub fn reports_error(body: JsonCursor<'_>) -> bool {
    // A typed event may have members of these names: the code interpreter's `code`.
    let is_typed = body.get("type").is_some_and(is_filled);
    body.members().any(|member| {
        let is = |name: &str| member.key.eq_str(name);
        let value = member.value;
        if is("error") {
            value.text() != "null"
        } else if is("errors") {
            is_filled(value)
        } else if is("type") || is("object") {
            value.eq_str("error")
        } else if is_typed {
            false
        } else if is("success") || is("ok") {
            value.text() == "false"
        } else if is("status") || is("statusCode") || is("status_code") {
            ["error", "failed", "failure"].iter().any(|word| value.eq_str(word)) || is_failed_status(value)
        } else if is("base_resp") {
            value.get("status_code").is_some_and(is_error_code)
        } else if is("x_groq") {
            value.get("error").is_some_and(|error| error.text() != "null")
        } else {
            let name = member.key.as_string().unwrap_or_default();
            let name = name.replace(['_', '-'], "").to_ascii_lowercase();
            (CODES.contains(&name.as_str()) && is_error_code(value))
                || (MESSAGES.contains(&name.as_str()) && is_filled(value) && is_error_code(value))
        }
    })
}

/// Members with a code, in lower case and without separators.
const CODES: [&str; 7] = ["code", "errorcode", "errcode", "errno", "errorno", "retcode", "returncode"];

/// Members that say what went wrong.
const MESSAGES: [&str; 9] =
    ["error", "err", "errormsg", "errmsg", "errormessage", "errortype", "exception", "fault", "failurereason"];

/// Whether an object has nothing but the explanation of an error (FastAPI, AWS).
pub fn is_only_explanation(body: JsonCursor<'_>) -> bool {
    const EXPLANATIONS: [&str; 5] = ["detail", "details", "message", "msg", "requestid"];
    let is_explanation =
        |name: String| EXPLANATIONS.contains(&name.replace(['_', '-'], "").to_ascii_lowercase().as_str());
    is_filled(body)
        && body.is_object()
        && body.members().all(|member| member.key.as_string().is_some_and(is_explanation))
}

/// Whether a number is the status of a failure.
fn is_failed_status(value: JsonCursor<'_>) -> bool {
    value.index().is_some_and(|status| (400..600).contains(&status))
}

/// A number or word other than those that mean success.
fn is_error_code(code: JsonCursor<'_>) -> bool {
    const SUCCESS: [&str; 5] = ["0", "200", "ok", "success", "succeeded"];
    let code = code.as_string().unwrap_or_else(|| code.text().to_owned());
    !matches!(code.as_str(), "" | "null") && !SUCCESS.iter().any(|word| code.eq_ignore_ascii_case(word))
}

/// Whether a response is a job, whose result has to be fetched later. `by_name`: a job's name alone is enough, unless the job has
/// finished.
pub fn is_job(body: JsonCursor<'_>, by_name: bool) -> bool {
    let nested = ["output", "data", "task", "job"].into_iter().filter_map(|name| body.get(name));
    let is_pending = std::iter::once(body).chain(nested).any(|part| {
        let states = STATES.iter().filter_map(|name| part.get(name)).filter_map(JsonCursor::as_string);
        let states: Vec<String> = states.map(|state| state.to_ascii_lowercase()).collect();
        let is_finished = states.iter().any(|state| FINISHED.contains(&state.as_str()));
        let is_named = by_name && JOB_MEMBERS.iter().any(|name| part.get(name).is_some_and(is_filled));
        states.iter().any(|state| PENDING.contains(&state.as_str())) || (is_named && !is_finished)
    });
    let kind = body.get("object").and_then(JsonCursor::as_string).unwrap_or_default();
    is_pending
        || body.get("done").is_some_and(|done| done.text() == "false")
        || kind.contains("async")
        || kind.ends_with(".job")
}

/// Members with a job's state.
const STATES: [&str; 6] = ["status", "state", "task_status", "taskStatus", "job_status", "jobStatus"];

/// Members with the name or the URL of a job.
const JOB_MEMBERS: [&str; 8] =
    ["task_id", "taskId", "job_id", "jobId", "polling_url", "status_url", "status_urls", "operation_id"];

const FINISHED: [&str; 6] = ["succeeded", "success", "completed", "complete", "finished", "done"];

const PENDING: [&str; 18] = [
    "accepted",
    "created",
    "deferred",
    "in_progress",
    "in_queue",
    "initializing",
    "not_started",
    "pending",
    "preparing",
    "processing",
    "queued",
    "running",
    "scheduled",
    "started",
    "starting",
    "submitted",
    "validating",
    "waiting",
];

/* Refusals, in the shape of the API that the client speaks. A refusal has a status, a text, OpenAI's type and code, the
   reason in a few words for the log, `wait` (seconds for Retry-After, or 0) and `again` (whether a retry may help).
   Sources: openai-python reads error.message, type, param and code; Anthropic's SDK reads error.type and message; the
   clients of Ollama take error for a text. openai-python retries 408, 409, 429 and 5xx unless x-should-retry is false,
   and waits for Retry-After only up to 120 seconds. */

const ANTHROPIC = {
    400: 'invalid_request_error', 401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error',
    405: 'invalid_request_error', 413: 'request_too_large', 415: 'invalid_request_error', 429: 'rate_limit_error',
    500: 'api_error', 503: 'overloaded_error'
};
const LONGEST_WAIT = 120;

function refusal(status, type, code, reason, text) {
    return {status: status, type: type, code: code, reason: reason, text: text, wait: 0, again: false};
}

function later(status, type, code, reason, text) {
    const made = refusal(status, type, code, reason, text);
    made.again = true;
    made.wait = served.retry_after;
    return made;
}

function invalid(text) {
    return refusal(400, 'invalid_request_error', null, 'invalid body', text);
}

function unauthorized(reason, text) {
    return refusal(401, 'invalid_request_error', 'invalid_api_key', reason, text);
}

function forbidden(text) {
    return refusal(403, 'permission_error', 'model_not_allowed', 'model not allowed', text);
}

function unknownModel(text) {
    return refusal(404, 'invalid_request_error', 'model_not_found', 'unknown model', text);
}

function closed() {
    return refusal(403, 'permission_error', null, 'closed path', 'this path is not open here');
}

function wrongMethod(method) {
    return refusal(405, 'invalid_request_error', null, 'wrong method', 'this path takes ' + method + ' only');
}

function tooLarge(cap) {
    return refusal(413, 'invalid_request_error', 'request_too_large', 'too large',
        'the request is larger than the ' + cap + ' bytes that are accepted here');
}

function encoded() {
    return refusal(415, 'invalid_request_error', null, 'encoded body',
        'a request with Content-Encoding is not accepted: send the body as it is');
}

function limited() {
    return later(429, 'rate_limit_error', 'rate_limit_exceeded', 'too many requests',
        'this key has too many requests at once, or sends requests too fast; try again later');
}

function exhausted(client, tokens, seconds) {
    const made = refusal(429, 'insufficient_quota', 'insufficient_quota', 'tokens of the day used', client +
        ' has used the ' + tokens + ' tokens of this day; the next day begins in ' + seconds + ' seconds, at midnight UTC');
    made.wait = Math.max(1, Math.min(LONGEST_WAIT, seconds));
    return made;
}

function busy() {
    return later(503, 'overloaded_error', null, 'no instance has room',
        'no instance can take this request now, try again later');
}

function unanswered() {
    return later(503, 'overloaded_error', null, 'no instance answers', busy().text);
}

function malformed() {
    return refusal(400, 'invalid_request_error', null, 'invalid HTTP',
        'the request is not valid HTTP, or its headers are too large');
}

/* The refusal after a mistake of the gateway itself: a retry would make the same mistake. */
function broken() {
    return refusal(500, 'api_error', null, 'cannot be judged',
        'the gateway could not judge this request, and so refuses it');
}

function text(shape, made) {
    if (shape === 'anthropic') {
        return JSON.stringify({type: 'error', error: {type: ANTHROPIC[made.status] || 'api_error', message: made.text}});
    }
    if (shape === 'openai') {
        return JSON.stringify({error: {message: made.text, type: made.type, param: null, code: made.code}});
    }
    return JSON.stringify({error: made.text});
}

/* Return the body of a refusal, and note the reason for the log. */
function noted(r, shape, made) {
    r.variables.gateway_refused = made.reason;
    return text(shape, made);
}

function setHeaders(r, made) {
    r.variables.gateway_wait = made.wait ? String(made.wait) : '';
    r.variables.gateway_should_retry = made.again ? '' : 'false';
}

function send(r, shape, made) {
    setHeaders(r, made);
    r.headersOut['Content-Type'] = 'application/json';
    r.return(made.status, noted(r, shape, made));
}

export default {
    broken, busy, closed, encoded, exhausted, forbidden, invalid, limited, malformed, noted, send, setHeaders, tooLarge,
    unanswered, unauthorized, unknownModel, wrongMethod
};

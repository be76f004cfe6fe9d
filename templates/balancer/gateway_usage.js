/* Tokens: from the last frame of an answer; where an answer has no such frame, from the number of frames.

   Ollama writes counts into the last frame of its own API, and OpenAI's usage only for clients that asked for it
   (stream_options.include_usage). A quote in generated text has a backslash before it, so that no text can look like a
   key of a frame. */

import keys from 'gateway_keys.js';
import answers from 'gateway_answers.js';

const TAIL = 8192;  // bytes of an answer that hold its last frame
const KEPT = 24;    // pieces of an answer, at most
const DAY = 86400;
const NOTHING = {input: 0, output: 0, estimated: false};
const UNKNOWN = {input: 0, output: 0, estimated: true};
const EVENT = 3;  // lines of a frame with `event:`, `data:` and an empty line
const LINES = {native: 1, openai: 2, anthropic: EVENT};
const NEWLINE = 10;
let pieces = [];
let seen = 0;
let lines = 0;
let row = null;

/* Count a piece of an answer. */
function count(data) {
    try {
        if (data.length) {
            pieces[seen % KEPT] = data;
            seen += 1;
            for (let i = data.indexOf(NEWLINE); i >= 0; i = data.indexOf(NEWLINE, i + 1)) {
                lines += 1;
            }
        }
    } catch (error) {
        pieces = [];
    }
}

/* Return {input, output, estimated} of a request, and charge the client once. */
function of(r, shape) {
    if (row === null) {
        row = UNKNOWN;
        row = seen && r.status < 400 ? counted(r, shape) : NOTHING;
        charge(r, row.input + row.output);
    }
    return row;
}

function counted(r, shape) {
    if (r.uri.endsWith('/api/show')) {
        return NOTHING;  // nothing is generated
    }
    const text = tail();
    const stream = String(r.headersOut['Content-Type'] || '').startsWith('text/event-stream');
    const found = shape === 'native' ? ofNative(text) : shape === 'anthropic' ? ofAnthropic(text, stream) : ofOpenai(text, stream);
    const each = r.uri.endsWith('/v1/responses') ? EVENT : LINES[shape];
    return found || {input: 0, output: Math.ceil(lines / each), estimated: true};
}

/* Return the end of the answer as text. */
function tail() {
    const parts = [];
    let size = 0;
    for (let i = seen - 1; i >= 0 && i > seen - KEPT && size < TAIL; i--) {
        const piece = pieces[i % KEPT];
        const wanted = piece.slice(Math.max(0, piece.length - TAIL + size));
        parts.unshift(wanted);
        size += wanted.length;
    }
    return Buffer.concat(parts).toString();
}

function ofNative(text) {
    const done = text.lastIndexOf('"done":true');
    const vectors = text.lastIndexOf('"total_duration":');  // an embedding has no `done`
    if (done < 0 && vectors < 0) {
        return null;
    }
    const end = text.slice(Math.max(done, 0));
    return {input: number(end, 'prompt_eval_count') || 0, output: number(end, 'eval_count') || 0, estimated: false};
}

/* Every frame of a stream of /v1/completions has a usage; all numbers are 0 but in the last frame. */
function ofOpenai(text, stream) {
    const input = number(text, 'prompt_tokens');
    if (input === null) {
        return ofResponses(text);
    }
    const output = number(text, 'completion_tokens') || 0;
    return stream && input + output === 0 ? null : {input: input, output: output, estimated: false};
}

function ofResponses(text) {
    const input = number(text, 'input_tokens');
    const output = number(text, 'output_tokens');
    return input === null || output === null ? null : {input: input, output: output, estimated: false};
}

/* The first event of a stream has a usage too, before anything is generated. */
function ofAnthropic(text, stream) {
    const begin = stream ? text.lastIndexOf('"message_delta"') : 0;
    return begin < 0 ? null : ofResponses(text.slice(begin));
}

/* Return the number after the last such key of a text, or null. */
function number(text, name) {
    const place = text.lastIndexOf('"' + name + '":');
    const found = place < 0 ? null : /^[ ]*([0-9]{1,12})/.exec(text.slice(place + name.length + 3));
    return found === null ? null : Number(found[1]);
}

function today() {
    return Math.floor(Date.now() / 1000 / DAY);
}

/* Add tokens to the day of a client. The zone is nginx's memory: a reload keeps the counts, a restart forgets them. */
function charge(r, tokens) {
    const who = keys.identify(r);
    if (who.tokens > 0 && tokens > 0) {
        ngx.shared.gateway_tokens.incr(who.client + ' ' + today(), tokens, 0);
    }
}

/* Return the refusal of a client that has used the tokens of the day, or null. A running answer is never cut. */
function exhausted(who) {
    if (!(who.tokens > 0)) {
        return null;
    }
    const used = ngx.shared.gateway_tokens.get(who.client + ' ' + today()) || 0;
    return used < who.tokens ? null : answers.exhausted(who.client, who.tokens, (today() + 1) * DAY - Math.floor(Date.now() / 1000));
}

export default {count, exhausted, of};

/* The gateway of a balancer: nginx calls these functions for every request, and refuses the request where a function
   throws. `served` is the data of gateway.json, `keyring` the data of gateway_clients.json (js_preload_object): frozen, and
   without prototypes, so a set is an object whose values are true. The script is for the engine njs, 0.8.9 and later: a
   request has a virtual machine of its own, so the variables of a module belong to a single request. */

import answers from 'gateway_answers.js';
import body from 'gateway_body.js';
import keys from 'gateway_keys.js';
import names from 'gateway_names.js';
import paths from 'gateway_paths.js';
import usage from 'gateway_usage.js';

/* Return 'pass', or the status of a refusal as text. nginx asks before the body is read, and takes every other answer,
   an exception too, for a refusal. */
function verdict(r) {
    const refusal = judged(r);
    return refusal === null ? 'pass' : String(refusal.status);
}

/* Return the body of the refusal, and set the headers that go with the status. */
function denial(r) {
    const refusal = judged(r) || answers.broken();
    answers.setHeaders(r, refusal);
    return answers.noted(r, shapeOf(r), refusal);
}

function judged(r) {
    const asked = paths.find(r.uri);
    const entry = asked.entry;
    const isOpen = entry !== null && (entry.open === true || keys.isManager(r));
    if (r.method === 'OPTIONS') {
        return isOpen ? null : answers.closed();
    }
    if (entry !== null && r.method !== entry.method && !(r.method === 'HEAD' && entry.method === 'GET')) {
        return answers.wrongMethod(entry.method);
    }
    const who = keys.identify(r);
    if (who.refusal !== null) {
        return asked.shape === 'native' ? keys.calm(who.refusal) : who.refusal;
    }
    const unnamed = asked.name === null ? null : names.find(who, asked.name).refusal;
    if (unnamed !== null) {
        return unnamed;
    }
    if (!isOpen) {
        return answers.closed();
    }
    if (r.headersIn['Content-Encoding'] !== undefined) {
        return answers.encoded();
    }
    return entry.method === 'POST' ? usage.exhausted(who) : null;
}

/* Return the client's name for limits and for the log: empty for an unknown client. */
function client(r) {
    return keys.identify(r).client;
}

/* Return the first characters of the key's hash, which name the key in the log. */
function key(r) {
    return keys.identify(r).id;
}

/* Send the request to the pool of its model, or refuse the request. */
function route(r) {
    try {
        const asked = paths.find(r.uri);
        if (r.method === 'OPTIONS') {
            r.variables.gateway_path = asked.path;
            r.internalRedirect('@gateway_preflight');
            return;
        }
        const who = keys.identify(r);
        const read = body.read(r, asked.entry);
        const found = read.refusal === null ? names.find(who, read.model) : read;
        const refusal = found.refusal === null ? names.contradiction(asked.name, read.model) : found.refusal;
        if (refusal !== null) {
            answers.send(r, asked.shape, refusal);
            return;
        }
        const sent = body.forPool(read, asked.entry, found.name);
        r.variables.gateway_model = found.name;
        r.variables.gateway_dropped = sent.dropped;
        r.variables.gateway_body = sent.text;
        r.variables.gateway_path = asked.path;
        r.internalRedirect('@' + found.pool);
    } catch (error) {
        fail(r, error);
    }
}

/* Answer below /models/NAME as at the root. */
function named(r) {
    try {
        const asked = paths.find(r.uri);
        if (r.method === 'OPTIONS' || asked.entry.method === 'POST') {
            route(r);
        } else if (asked.entry.list !== undefined) {
            list(r);
        } else if (asked.asked !== null) {
            about(r);
        } else {
            r.variables.gateway_body = '';
            r.variables.gateway_path = asked.path;
            r.internalRedirect('@' + names.find(keys.identify(r), asked.name).pool);
        }
    } catch (error) {
        fail(r, error);
    }
}

/* Answer a list of models with the models of the client. */
function list(r) {
    try {
        const answer = names.list(keys.identify(r), paths.find(r.uri).entry.list);
        r.headersOut['Content-Type'] = 'application/json';
        r.return(200, JSON.stringify(answer));
    } catch (error) {
        fail(r, error);
    }
}

/* Answer a question about a single model, `/v1/models/NAME`. */
function about(r) {
    try {
        const asked = paths.find(r.uri);
        const found = names.find(keys.identify(r), asked.asked);
        if (found.refusal !== null) {
            answers.send(r, asked.shape, found.refusal);
            return;
        }
        r.headersOut['Content-Type'] = 'application/json';
        r.return(200, JSON.stringify(names.openaiModel(found.name)));
    } catch (error) {
        fail(r, error);
    }
}

function fail(r, error) {
    // The message of an error may quote the request, so the log gets the kind of error alone.
    r.error('gateway: ' + (error instanceof Error ? error.name : 'error') + ' for ' + r.method + ' ' + r.uri);
    answers.send(r, shapeOf(r), answers.broken());
}

function shapeOf(r) {
    return paths.shapeOf(r.uri);
}

/* Return the body for a status of nginx itself. nginx has read no body then, or broken off. */
function limited(r) {
    return answers.noted(r, shapeOf(r), answers.limited());
}

/* An instance that was asked has an address in $upstream_addr; where no instance could be asked, its name is there. */
function busy(r) {
    const asked = /:[0-9]/.test(r.variables.upstream_addr || '');
    return answers.noted(r, shapeOf(r), asked ? answers.unanswered() : answers.busy());
}

function closed(r) {
    return answers.noted(r, shapeOf(r), answers.closed());
}

function tooLarge(r) {
    return answers.noted(r, shapeOf(r), answers.tooLarge(served.cap));
}

function malformed(r) {
    return answers.noted(r, paths.shapeOf(r.variables.request_uri), answers.malformed());
}

/* Pass a piece of an answer on, and count the piece. A mistake in counting never cuts an answer. */
function count(r, data, flags) {
    r.sendBuffer(data, flags);
    usage.count(data);
}

/* Return the tokens of the question, for the log; empty where nobody counts. The first of these variables charges the
   client. */
function tokensIn(r) {
    return served.count ? String(usage.of(r, shapeOf(r)).input) : '';
}

function tokensOut(r) {
    return served.count ? String(usage.of(r, shapeOf(r)).output) : '';
}

function estimated(r) {
    return served.count && usage.of(r, shapeOf(r)).estimated ? 'true' : 'false';
}

export default {
    about, busy, client, closed, count, denial, estimated, key, limited, list, malformed, named, route, tokensIn, tokensOut,
    tooLarge, verdict
};

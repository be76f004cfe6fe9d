/* The gateway of a balancer: nginx calls these functions for every request, and refuses the request where a function
   throws. `served` is the data of gateway.json (js_preload_object): frozen, and without
   prototypes, so a set is an object whose values are true. The script is for the engine njs, 0.8.9 and later:
   a request has a virtual machine of its own, so the variables of a module belong to a single request. */

import answers from 'gateway_answers.js';
import body from 'gateway_body.js';
import keys from 'gateway_keys.js';
import names from 'gateway_names.js';
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
    return answers.text(shapeOf(r), refusal);
}

function judged(r) {
    const path = pathOf(r);
    if (r.method === 'OPTIONS') {
        return null;
    }
    if (r.method !== path.method && !(r.method === 'HEAD' && path.method === 'GET')) {
        return answers.wrongMethod(path.method);
    }
    const who = keys.identify(r);
    if (who.refusal !== null) {
        return path.shape === 'native' ? keys.calm(who.refusal) : who.refusal;
    }
    if (r.headersIn['Content-Encoding'] !== undefined) {
        return answers.encoded();
    }
    return path.method === 'POST' ? usage.exhausted(who) : null;
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
        if (r.method === 'OPTIONS') {
            r.internalRedirect('@gateway_preflight');
            return;
        }
        const path = pathOf(r);
        const who = keys.identify(r);
        const read = body.read(r, path);
        const found = read.refusal === null ? names.find(who, read.model) : read;
        if (found.refusal !== null) {
            answers.send(r, path.shape, found.refusal);
            return;
        }
        const sent = body.forPool(read, path, found.name);
        r.variables.gateway_model = found.name;
        r.variables.gateway_dropped = sent.dropped;
        r.variables.gateway_body = sent.text;
        r.internalRedirect('@' + found.pool);
    } catch (error) {
        fail(r, error);
    }
}

/* Answer a list of models with the models of the client. */
function list(r) {
    try {
        const answer = names.list(keys.identify(r), pathOf(r).list);
        r.headersOut['Content-Type'] = 'application/json';
        r.return(200, JSON.stringify(answer));
    } catch (error) {
        fail(r, error);
    }
}

/* Answer a question about a single model, `/v1/models/NAME`. */
function about(r) {
    try {
        const who = keys.identify(r);
        const path = pathOf(r);
        const found = names.find(who, r.uri.slice(path.prefix.length));
        if (found.refusal !== null) {
            answers.send(r, path.shape, found.refusal);
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

/* Return the path of served.paths that the request has. Throws for a path that is not open. */
function pathOf(r) {
    if (Object.prototype.hasOwnProperty.call(served.paths, r.uri)) {
        return served.paths[r.uri];
    }
    const prefix = served.about;
    if (prefix !== null && r.uri.startsWith(prefix.prefix)) {
        return prefix;
    }
    throw new Error('no such path');
}

function shapeOf(r) {
    return answers.shapeOf(r.uri);
}

/* Return the body for a status of nginx itself. nginx has read no body then, or broken off. */
function limited(r) {
    return answers.text(shapeOf(r), answers.limited());
}

function busy(r) {
    return answers.text(shapeOf(r), answers.busy());
}

function tooLarge(r) {
    return answers.text(shapeOf(r), answers.tooLarge(served.cap));
}

function malformed(r) {
    return answers.text(answers.shapeOf(r.variables.request_uri), answers.malformed());
}

/* Pass a piece of an answer on, and count the piece. A mistake in counting never cuts an answer. */
function count(r, data, flags) {
    r.sendBuffer(data, flags);
    usage.count(data);
}

/* Return the tokens of the question, for the log. The first of these variables charges the client. */
function tokensIn(r) {
    return String(usage.of(r, shapeOf(r)).input);
}

function tokensOut(r) {
    return String(usage.of(r, shapeOf(r)).output);
}

function estimated(r) {
    return usage.of(r, shapeOf(r)).estimated ? 'true' : 'false';
}

export default {
    about, busy, client, count, denial, estimated, key, limited, list, malformed, route, tokensIn, tokensOut, tooLarge,
    verdict
};

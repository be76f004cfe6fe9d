/* Bodies: the model of a request, and the body that reaches an instance.

   Go's decoder, which Ollama uses, ignores the case of keys and takes the last of two equal keys (encoding/json). So
   two parsers may read two models in a body, and a body that might be read in two ways is refused. */

import answers from 'gateway_answers.js';

/* A key `model`, however its letters are written. The regular expression finds the key at any depth, and the end of a
   key such as `x\"model`, and nothing in a text: a quote in a text has a backslash before it. */
const MODEL_KEY = /"(?:m|\\u00[46]d)(?:o|\\u00[46]f)(?:d|\\u00[46]4)(?:e|\\u00[46]5)(?:l|\\u00[46]c)"[ \t\r\n]*:/gi;
const ENDS_IN_MODEL = /(?:^|")model$/i;
const SHOWN = 20;

/* Return {object, text, model, refusal} of a request's body. */
function read(r, path) {
    const text = r.requestText;
    if (typeof text !== 'string' || text.length === 0) {
        return refused(answers.invalid('the request has no body: send a JSON object with the key "model"'));
    }
    if (r.requestBuffer.length > served.cap) {
        return refused(answers.tooLarge(served.cap));
    }
    let object;
    try {
        object = JSON.parse(text);
    } catch (error) {
        return refused(answers.invalid('the body is not JSON, or nested too deeply'));
    }
    if (object === null || typeof object !== 'object' || Array.isArray(object)) {
        return refused(answers.invalid('the body must be a JSON object'));
    }
    return named(object, text, path);
}

function refused(refusal) {
    return {object: null, text: '', model: '', refusal: refusal};
}

function named(object, text, path) {
    const own = Object.keys(object);
    const folded = own.map(fold);
    const first = folded.indexOf('model');
    const key = first < 0 && path.old_name ? 'name' : 'model';
    const place = first < 0 ? folded.indexOf(key) : first;
    if (place < 0) {
        return refused(answers.invalid('the body has no key "model"'));
    }
    if (own[place] !== key || folded.indexOf(key, place + 1) >= 0 || (key === 'model' && !isSingle(object, text))) {
        return refused(answers.invalid('the body must have the key "model" once, in lower case'));
    }
    const model = object[key];
    if (typeof model !== 'string' || model.length === 0) {
        return refused(answers.invalid('"model" must be the name of a model'));
    }
    return {object: object, text: text, model: model, refusal: null};
}

/* Return whether no key `model` occurs twice in an object: the text has as many such keys as the parsed body, where a
   later key has taken the place of an earlier key. */
function isSingle(object, text) {
    const written = text.match(MODEL_KEY);
    return written !== null && (written.length === 1 || written.length === modelKeys(object));
}

function modelKeys(value) {
    if (value === null || typeof value !== 'object') {
        return 0;
    }
    let found = 0;
    if (Array.isArray(value)) {
        for (let i = 0; i < value.length; i++) {
            found += modelKeys(value[i]);
        }
        return found;
    }
    const own = Object.keys(value);
    for (let i = 0; i < own.length; i++) {
        found += (ENDS_IN_MODEL.test(own[i]) ? 1 : 0) + modelKeys(value[own[i]]);
    }
    return found;
}

/* Return a key as Go compares keys: the long s and the sign of Kelvin are letters too. */
function fold(key) {
    return key.toUpperCase().toLowerCase();
}

/* Return {text, dropped}: the body for an instance, and the dropped keys in words. */
function forPool(request, path, model) {
    if (path.keys !== null) {
        return rebuilt(request.object, path, model);
    }
    const dropped = [];
    const own = Object.keys(request.object);
    for (let i = 0; i < own.length; i++) {
        if (served.resident[fold(own[i])] === true) {
            dropped.push(own[i]);
            delete request.object[own[i]];
        }
    }
    const bounded = bound(request.object, path);
    return {text: dropped.length || bounded ? JSON.stringify(request.object) : request.text, dropped: words(dropped)};
}

/* Return a new body with the allowed keys alone, each in the spelling of the allow-list. */
function rebuilt(object, path, model) {
    const dropped = [];
    const made = picked(object, path.keys, '', dropped);
    delete made.name;
    made.model = model;
    if (made.options !== undefined && made.options !== null) {
        if (typeof made.options !== 'object' || Array.isArray(made.options)) {
            dropped.push('options');
            delete made.options;
        } else {
            made.options = picked(made.options, served.options, 'options.', dropped);
        }
    }
    if (path.limit === 'options.num_predict' && served.max_tokens > 0) {
        made.options = made.options || {};
        bound(made.options, {limit: 'num_predict'});
    }
    return {text: JSON.stringify(made), dropped: words(dropped)};
}

function picked(object, allowed, prefix, dropped) {
    const made = {};
    const own = Object.keys(object);
    for (let i = 0; i < own.length; i++) {
        const name = fold(own[i]);
        if (allowed[name] !== true) {
            dropped.push(prefix + own[i]);
        } else {
            made[name] = object[own[i]];
        }
    }
    return made;
}

/* Bound the tokens of an answer by served.max_tokens, and return whether the body has changed. */
function bound(object, path) {
    if (!(served.max_tokens > 0) || !path.limit) {
        return false;
    }
    const own = Object.keys(object);
    let asked = served.max_tokens;
    for (let i = 0; i < own.length; i++) {
        if (fold(own[i]) === path.limit) {
            const value = object[own[i]];
            asked = typeof value === 'number' && value >= 1 ? Math.min(asked, value) : asked;
            delete object[own[i]];
        }
    }
    object[path.limit] = asked;
    return true;
}

/* Return dropped keys for a header and the log: a few, and no character that a header or a log might misread. */
function words(dropped) {
    const shown = dropped.slice(0, SHOWN).map(function (name) {
        return name.slice(0, 40).replace(/[^A-Za-z0-9_.-]/g, '?');
    });
    return shown.join(',') + (dropped.length > SHOWN ? ',...' : '');
}

export default {forPool, read};

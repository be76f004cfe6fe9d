/* Bodies: the model of a request, and the body that reaches an instance.

   Go's decoder, which Ollama uses, ignores the case of keys and takes the last of two equal keys (encoding/json). So
   two parsers may read two models in a body, and a body that might be read in two ways is refused. */

import answers from 'gateway_answers.js';

/* A key `model`, however its letters are written. The regular expression finds the key at any depth, and the end of a
   key such as `x\"model`, and nothing in a text: a quote in a text has a backslash before it. */
const MODEL_KEY = /"(?:m|\\u00[46]d)(?:o|\\u00[46]f)(?:d|\\u00[46]4)(?:e|\\u00[46]5)(?:l|\\u00[46]c)"[ \t\r\n]*:/gi;
const ENDS_IN_MODEL = /(?:^|")model$/i;
/* Bounds of work: a worker does nothing else while a script looks at a body. */
const MOST_SEARCHES = 8;
const MOST_VALUES = 10000;
const MOST_KEYS = 256;
const MOST_CONTAINERS = 20000;
const OPENING = [0x5b, 0x7b];  // [ and {
const SHOWN = 20;

/* Return {object, text, model, refusal} of a request's body. The text is null where the object has to be written anew. */
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
    if (mayBeMany(r.requestBuffer) && containers(object, 0) > MOST_CONTAINERS) {
        return refused(answers.invalid('the body has more than ' + MOST_CONTAINERS + ' objects and arrays'));
    }
    return named(object, text, path);
}

/* Return whether a body has so many brackets that it may have too many objects and arrays: each takes microseconds to
   write. Brackets in texts count too. */
function mayBeMany(buffer) {
    let found = 0;
    for (let i = 0; i < OPENING.length; i++) {
        for (let at = buffer.indexOf(OPENING[i]); at >= 0 && found <= MOST_CONTAINERS; at = buffer.indexOf(OPENING[i], at + 1)) {
            found += 1;
        }
    }
    return found > MOST_CONTAINERS;
}

/* Return the number of objects and arrays in a value, and stop a little after MOST_CONTAINERS. */
function containers(value, found) {
    const isArray = Array.isArray(value);
    const own = isArray ? value : Object.keys(value);
    let sum = found + 1;
    for (let i = 0; i < own.length && sum <= MOST_CONTAINERS; i++) {
        const item = isArray ? value[i] : value[own[i]];
        if (item !== null && typeof item === 'object') {
            sum = containers(item, sum);
        }
    }
    return sum;
}

function refused(refusal) {
    return {object: null, text: '', model: '', refusal: refusal};
}

/* Return whether `name` has the model. The program ollama sends both keys, and leaves `model` empty (cmd/cmd.go of
   Ollama 0.17, ShowHandler); a server takes `name` then (server/routes.go). */
function isOldName(object, own, folded) {
    const first = folded.indexOf('model');
    const isEmpty = first >= 0 && object[own[first]] === '' && folded.indexOf('model', first + 1) < 0;
    return first < 0 || (isEmpty && own[first] === 'model' && folded.indexOf('name') >= 0);
}

function named(object, text, path) {
    const own = Object.keys(object);
    if (own.length > MOST_KEYS) {
        return refused(answers.invalid('the body has more than ' + MOST_KEYS + ' keys'));
    }
    const folded = own.map(fold);
    const key = path.old_name && isOldName(object, own, folded) ? 'name' : 'model';
    const place = folded.indexOf(key);
    if (place < 0) {
        return refused(answers.invalid('the body has no key "model"'));
    }
    const written = key === 'model' ? modelsWritten(text) : 1;
    const work = {left: MOST_VALUES};
    const isDouble = written > 1 && written <= MOST_SEARCHES && written !== modelKeys(object, work) && work.left > 0;
    if (own[place] !== key || folded.indexOf(key, place + 1) >= 0 || isDouble) {
        return refused(answers.invalid('the body must have the key "model" once, in lower case'));
    }
    const model = object[key];
    if (typeof model !== 'string' || model.length === 0) {
        return refused(answers.invalid('"model" must be the name of a model'));
    }
    const isKnown = written <= MOST_SEARCHES && work.left > 0;
    return {object: object, text: isKnown ? text : null, model: model, refusal: null};
}

/* Return the number of keys `model` in a text, at any depth. The parsed body has fewer where an object has the key twice,
   because the later key has taken the place of the earlier. A text with more than MOST_SEARCHES is not compared with
   its object: the object is written anew, and has the key once. */
function modelsWritten(text) {
    let found = 0;
    MODEL_KEY.lastIndex = 0;
    while (found <= MOST_SEARCHES && MODEL_KEY.exec(text) !== null) {
        found += 1;
    }
    return found;
}

/* Return the number of keys `model` in a value. `work.left` is 0 after too many values, and the number means nothing. */
function modelKeys(value, work) {
    if (value === null || typeof value !== 'object') {
        return 0;
    }
    let found = 0;
    const isArray = Array.isArray(value);
    const own = isArray ? value : Object.keys(value);
    for (let i = 0; i < own.length && work.left > 0; i++) {
        work.left -= 1;
        found += isArray ? modelKeys(value[i], work) : modelKeys(value[own[i]], work);
        found += !isArray && ENDS_IN_MODEL.test(own[i]) ? 1 : 0;
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
    const same = request.text !== null && !dropped.length && !bounded;
    return {text: same ? request.text : JSON.stringify(request.object), dropped: words(dropped)};
}

/* Return a new body with the allowed keys alone, each in the spelling of the allow-list. */
function rebuilt(object, path, model) {
    const dropped = [];
    const made = picked(object, path.keys, '', dropped);
    delete made.name;
    made.model = model;
    if (made.options !== undefined && made.options !== null) {
        const isObject = typeof made.options === 'object' && !Array.isArray(made.options);
        if (!isObject || Object.keys(made.options).length > MOST_KEYS) {
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

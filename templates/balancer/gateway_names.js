/* Models: the one form of a name, and the pool of a model. */

import answers from 'gateway_answers.js';

const REGISTRY = 'registry.ollama.ai';
const SPACE = 'library';
const LONGEST = 512;
const NAMED = 20;

/* Return a name as the keys of served.models have it: in lower case, with a tag and without defaults. Ollama ignores
   case and takes missing parts from its defaults (types/model/name.go). */
function canonical(name) {
    const parts = name.toLowerCase().split('/');
    if (parts.length === 3 && parts[0] === REGISTRY) {
        parts.shift();
    }
    if (parts.length === 2 && parts[0] === SPACE) {
        parts.shift();
    }
    return parts.join('/') + (parts[parts.length - 1].indexOf(':') < 0 ? ':latest' : '');
}

/* Return {name, pool, refusal} for a client and the name of a model. */
function find(who, asked) {
    const name = asked.length > LONGEST ? '' : canonical(asked);
    const pool = poolOf(who, name);
    if (pool === null) {
        return refused(answers.unknownModel('the model ' + quoted(asked) + ' is not served here; ' + served_(who)));
    }
    if (!mayUse(who, name)) {
        return refused(answers.forbidden('this key may not use the model ' + quoted(asked) + '; ' + served_(who)));
    }
    return {name: name, pool: pool, refusal: null};
}

/* Return the refusal of a body whose model is another than that of the path, or null. */
function contradiction(named, asked) {
    const same = named === null || canonical(named) === canonical(asked);
    return same ? null : answers.invalid('the body has the model ' + quoted(asked) + ', and the path ' + quoted(named));
}

function refused(refusal) {
    return {name: '', pool: '', refusal: refusal};
}

function mayUse(who, name) {
    return who.models === null || who.models[name] === true;
}

/* Return the pool of a model, or null. A client with instances of its own has no other pool. */
function poolOf(who, name) {
    if (!Object.prototype.hasOwnProperty.call(served.models, name)) {
        return null;
    }
    const pools = served.models[name].pools;
    return Object.prototype.hasOwnProperty.call(pools, who.pool) ? pools[who.pool] : null;
}

/* Return the names of the models that a client may use. */
function of(who) {
    return Object.keys(served.models).filter(function (name) {
        return poolOf(who, name) !== null && mayUse(who, name);
    });
}

function served_(who) {
    const all = of(who);
    const more = all.length > NAMED ? ' and ' + (all.length - NAMED) + ' more' : '';
    return all.length ? 'served: ' + all.slice(0, NAMED).join(', ') + more : 'no model is served to this client';
}

/* Return a name from a request for a message: short, and without control characters. */
function quoted(name) {
    return '"' + name.slice(0, 100).replace(/[\u0000-\u001f\u007f-\u009f"]/g, '?') + (name.length > 100 ? '..."' : '"');
}

/* Return the answer of a list of models, in the form `openai` or `native`. */
function list(who, form) {
    const all = of(who);
    if (form === 'openai') {
        return {object: 'list', data: all.map(openaiModel)};
    }
    if (form !== 'native') {
        throw new Error('unknown form of a list');
    }
    return {models: all.map(function (name) {
        return Object.assign({name: name, model: name}, served.models[name].details);
    })};
}

function openaiModel(name) {
    return {id: name, object: 'model', created: 0, owned_by: 'library'};
}

export default {canonical, contradiction, find, list, openaiModel};

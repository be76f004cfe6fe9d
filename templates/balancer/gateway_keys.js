/* Who asks: the client of a key, of a network or of a certificate. Keys are generated and long, so a fast hash of a key
   is enough, and a look-up by the hash tells nothing about other keys by its time. */

import crypto from 'crypto';
import answers from 'gateway_answers.js';

const LONGEST = 256;
const SHOWN = 8;
let known = null;

/* Return {client, id, models, pool, tokens, refusal}; the client is empty where `refusal` is not null. */
function identify(r) {
    if (known === null) {
        known = found(r);
    }
    return known;
}

function found(r) {
    if (served.auth === 'none') {
        return {client: '', id: '', models: null, pool: '', tokens: 0, refusal: null};
    }
    if (served.auth !== 'keys') {
        throw new Error('unknown kind of authentication');
    }
    const given = keyOf(r);
    if (given.refusal !== null) {
        return nobody(given.refusal, '');
    }
    return given.key === null ? trusted(r) : ofKey(given.key);
}

/* Return an unknown client. An expired or revoked key is named in the log: `id` is empty for any other. */
function nobody(refusal, id) {
    return {client: '', id: id, models: {}, pool: '', tokens: 0, refusal: refusal};
}

/* Return whether the request came to the status port, which only programs of the balancer's own host reach: nginx's own
   configuration sets the variable. */
function isManager(r) {
    return r.variables.gateway_managing === 'yes';
}

/* Return the client of the status port, of a network or of a certificate. */
function trusted(r) {
    const name = isManager(r) ? served.manager : r.variables.gateway_trusted_client;
    if (!name) {
        return nobody(answers.unauthorized('no key', 'this request has no key: send Authorization: Bearer KEY, or x-api-key: KEY'), '');
    }
    return of(name, '');
}

function ofKey(key) {
    if (key.length > LONGEST) {
        return nobody(answers.unauthorized('unknown key', 'this key is not known here'), '');
    }
    const hash = crypto.createHash('sha256').update(key).digest('hex');
    if (!Object.prototype.hasOwnProperty.call(keyring.keys, hash)) {
        return nobody(answers.unauthorized('unknown key', 'this key is not known here'), '');
    }
    const entry = keyring.keys[hash];
    const id = hash.slice(0, SHOWN);
    if (entry.revoked !== false) {
        return nobody(answers.unauthorized('revoked key', 'this key is revoked'), id);
    }
    if (entry.expires !== null && !(Date.now() < entry.expires * 1000)) {
        return nobody(answers.unauthorized('expired key', 'this key has expired'), id);
    }
    return of(entry.client, id);
}

function of(name, id) {
    if (!Object.prototype.hasOwnProperty.call(keyring.clients, name)) {
        throw new Error('unknown client');
    }
    const client = keyring.clients[name];
    return {client: name, id: id, models: client.models, pool: client.pool, tokens: client.tokens_per_day, refusal: null};
}

/* Return the key of the headers. Two different keys are refused: the log would name the wrong client. */
function keyOf(r) {
    const bearer = /^bearer[ \t]+([^ \t]+)[ \t]*$/i.exec(r.headersIn.Authorization || '');
    const plain = r.headersIn['x-api-key'];
    if (bearer !== null && plain !== undefined && plain !== bearer[1]) {
        return {key: null, refusal: answers.unauthorized('two keys', 'Authorization and x-api-key have different keys')};
    }
    if (bearer !== null || plain !== undefined) {
        return {key: bearer !== null ? bearer[1] : plain, refusal: null};
    }
    if (r.headersIn.Authorization !== undefined) {
        return {key: null, refusal: answers.unauthorized('no key', 'Authorization must be: Bearer KEY')};
    }
    return {key: null, refusal: null};
}

/* Return a refusal with 403 in place of 401: after a 401, the program ollama tells its user to sign in at Ollama's own
   service (api/client.go of Ollama, AuthorizationError). */
function calm(refusal) {
    return Object.assign({}, refusal, {status: 403});
}

export default {calm, identify, isManager};

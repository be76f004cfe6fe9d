/* The path of a request: at the root, or below /models/NAME. Both lead to the same entries of served.paths. */

const NAMED = '/models/';
const APIS = ['/v1/', '/api/'];

/* Return {path, entry, name, asked, shape}: the path at the root, always a text of ours; its entry of served.paths, or
   null for a closed path; the model of a path below /models/, or null; the model of a question about a single model, or
   null; and the shape of errors. */
function find(uri) {
    if (!uri.startsWith(NAMED)) {
        return of(uri, null);
    }
    const rest = uri.slice(NAMED.length);
    const start = beginning(rest);
    return of(rest.slice(start) || '/', rest.slice(0, start));
}

/* Return where the path begins in NAME/PATH. A name may have slashes, and has no part `v1` or `api`. */
function beginning(rest) {
    const found = APIS.map(function (api) {
        return rest.indexOf(api);
    }).filter(function (at) {
        return at >= 0;
    });
    return found.length ? Math.min.apply(null, found) : rest.endsWith('/') ? rest.length - 1 : rest.length;
}

function of(path, name) {
    const shape = path === '/v1/messages' ? 'anthropic' : path.startsWith('/v1/') ? 'openai' : 'native';
    if (Object.prototype.hasOwnProperty.call(served.paths, path)) {
        return {path: path, entry: served.paths[path], name: name, asked: null, shape: shape};
    }
    const about = served.about;
    if (path.startsWith(about.prefix)) {
        return {path: about.at, entry: about, name: name, asked: path.slice(about.prefix.length), shape: shape};
    }
    return {path: '/', entry: null, name: name, asked: null, shape: shape};
}

/* Return the shape of errors on a path. */
function shapeOf(uri) {
    return typeof uri === 'string' ? find(uri).shape : 'native';
}

export default {find, shapeOf};

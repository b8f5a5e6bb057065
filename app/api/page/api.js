// Speaks with the server; knows nothing of the document.

const KEY = "camserve-api-key";
const WORDS = {
  413: "The picture is too large for this server or for a proxy before it.",
  502: "The proxy could not reach the server.",
  504: "The answer took too long.",
};

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, in words that can be shown. */
export class Problem extends Error {
  constructor(title, { status = 0, detail = "", errors = [], requestId = "", retryAfter = 0, retryable = false } = {}) {
    super(title);
    Object.assign(this, { status, detail, errors, requestId, retryAfter, retryable });
  }
}

/** A GET whose answer is JSON. */
export async function get(path) {
  return (await call(path)).json();
}

/** The bytes behind a path, with their type. */
export async function download(path) {
  return (await call(path)).blob();
}

/** Sends a picture (a Blob) as the raw body; with ``onProgress`` it is told how far the work has come. */
export async function explain(picture, options, signal, onProgress) {
  const headers = { "Content-Type": mediaType(picture), ...(onProgress && { Accept: "text/event-stream" }) };
  const response = await call(explainPath(options), { method: "POST", body: picture, headers, signal });
  if (!onProgress) return response.json();
  try {
    for await (const [name, data] of events(response.body)) {
      if (name === "progress") onProgress(data);
      if (name === "error") throw asProblem(data, data.status);
      if (name === "result") return data;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
  }
  throw new Problem("The server broke off", { detail: "It may be starting again.", retryable: true });
}

/** The names and data of an event stream. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = block.match(/^event: (\w+)\ndata: (.*)$/) ?? [];
      if (name) yield [name, JSON.parse(data)];
    }
  }
}

/** The shell command that sends the same request. */
export function curlLine(picture, options) {
  const parts = ["curl", "--data-binary", quote(`@${picture.name}`), "-H", quote(`Content-Type: ${mediaType(picture)}`)];
  if (apiKey.get()) parts.push("-H", '"X-API-Key: $API_KEY"');  // the key itself stays off the screen
  return [...parts, quote(location.origin + explainPath(options))].join(" ");
}

async function call(path, init = {}) {
  const headers = { ...init.headers, ...(apiKey.get() && { "X-API-Key": apiKey.get() }) };
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer", { detail: "It may be starting, or the connection was lost.", retryable: true });
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));  // a proxy's own error page is HTML
  return asProblem(body, response.status, response);
}

function asProblem(body, status, response) {
  return new Problem(body.title ?? `Error ${status}`, {
    status,
    detail: body.detail ?? WORDS[status] ?? response?.statusText,
    errors: body.errors ?? [],
    requestId: body.request_id ?? response?.headers.get("X-Request-ID") ?? "",
    retryAfter: Number.parseInt(response?.headers.get("Retry-After"), 10) || 0,
    retryable: body.retryable ?? [408, 429, 502, 503, 504].includes(status),
  });
}

const explainPath = (options) => `/api/v1/explain?${new URLSearchParams(options)}`;
const mediaType = (picture) => (picture.type.startsWith("image/") ? picture.type : "application/octet-stream");
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// A box on its way in, by tus: in pieces, from where it stands, whatever happens to the tab, the network or the session.

const form = document.getElementById("upload");
const of = (id) => document.getElementById(id);
const settings = form?.dataset ?? {};
const SECOND = 1000;
const LONGEST_PAUSE = 60 * SECOND;
const MOST_PAUSE = 3600 * SECOND;
const COMPARISONS = 6;
const INTERRUPTED = Symbol("interrupted");
const LOST = "The connection was lost.";

let token = settings.token;
let upload = null;
let digester = null;
let running = false;
let paused = false;
let tries = 0;
let furthest = 0;
let began = null;
// Ends what the run waits for just now.
let interrupt = () => {};

// Uploads are told where to go on by a path: the page may be reached by another address than the one that is told.
const sameOrigin = {
  getName: () => "SameOrigin",
  createRequest(method, url) {
    const request = new tus.DefaultHttpStack({}).createRequest(method, url);
    const send = request.send.bind(request);
    request.send = async (body) => {
      const response = await send(body);
      const status = response.getStatus();
      const isTold = (status >= 200 && status < 300) || status === 404 || status === 410;
      // tus would forget where it stood and begin anew.
      if (method === "HEAD" && !isTold) throw Object.assign(new Error("refused"), { response });
      const header = response.getHeader.bind(response);
      response.getHeader = (name) => {
        const value = header(name);
        return name === "Location" && value ? new URL(value, location.href).pathname : value;
      };
      return response;
    };
    return request;
  },
};

function say(text, kind = "") {
  of("standing").hidden = false;
  of("said").textContent = text;
  of("said").className = kind;
}

function sized(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${bytes.toFixed(at ? 1 : 0)} ${units[at]}`;
}

function timed(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.ceil(seconds % 60)];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

// Where the server stands: whoever gets further has a fresh start at pauses.
function arrived(bytes) {
  if (bytes > furthest) tries = 0;
  furthest = Math.max(furthest, bytes);
}

function progress(sent, total) {
  const now = performance.now();
  if (!began) {
    say("Sending.");
    arrived(sent);
    began = { sent, now };
  }
  const rate = (sent - began.sent) / ((now - began.now) / SECOND);
  of("bar").value = total ? sent / total : 0;
  const left = rate > 0 ? `, ${sized(rate)}/s, ${timed((total - sent) / rate)} left` : "";
  of("numbers").textContent = `${sized(sent)} of ${sized(total)}${left}`;
}

// The file's digest, computed beside the upload.
function digested(file) {
  digester?.terminate();
  digester = new Worker(settings.digest);
  return new Promise((resolve) => {
    digester.onmessage = ({ data }) => resolve(data);
    digester.onerror = () => resolve(null);
    digester.postMessage({ file, library: settings.sha256 });
  });
}

// What an answer says is wrong: the doors tell it in JSON, proxies tell nothing that is worth reading.
function sentence(status, body) {
  try {
    const told = JSON.parse(body);
    const text = told.detail ?? told.message ?? told.title;
    if (typeof text === "string" && text) return text;
  } catch {}
  return `The server answered ${status}.`;
}

// Waits so long, unless the network comes back or somebody presses the button before.
function rest(milliseconds) {
  return new Promise((over) => {
    interrupt = over;
    setTimeout(over, milliseconds);
    addEventListener("online", over, { once: true });
  });
}

// Waits longer each time, and as long as the server says; then it may be gone on with.
async function again(why, retryAfter) {
  const seconds = /^\d+$/.test(retryAfter) ? Number(retryAfter) : (Date.parse(retryAfter) - Date.now()) / SECOND;
  const growing = Math.min(SECOND * 2 ** tries, LONGEST_PAUSE);
  const pause = Math.min(Math.max(growing, seconds * SECOND || 0), MOST_PAUSE);
  tries += 1;
  if (paused) return true;
  say(`${why} It is tried again in ${timed(pause / SECOND)}.`, "bad");
  await rest(pause);
  return true;
}

// Whether the session ended, after what came of that; `false` if it stands, so that it was not the reason.
async function sessionEnded() {
  for (;;) {
    const answer = await fetch(settings.session).catch(() => null);
    const session = answer?.ok ? await answer.json().catch(() => ({})) : {};
    const isOurs = session.user === settings.user;
    if (isOurs && session.token) {
      const isNew = session.token !== token;
      token = session.token;
      of("again").hidden = true;
      return isNew;
    }
    if (paused) return true;
    if (session.user) {
      say(`You are signed in as ${session.user} now; ${settings.user} began this upload.`, "bad");
    } else if (answer?.status === 401 || answer?.status === 403) {
      say("Your session ended. Sign in again, and the upload goes on.", "bad");
    } else {
      await again(answer ? sentence(answer.status, "") : LOST, answer?.headers.get("Retry-After"));
      continue;
    }
    of("again").hidden = false;
    await rest(2 * SECOND);
  }
}

function comesBack(status) {
  return [408, 409, 423, 425, 429].includes(status) || (status >= 500 && status !== 501 && status !== 507);
}

// A name that is refused is told beside its field.
function blame(name, text) {
  const input = form.elements[name];
  const told = Object.assign(document.createElement("strong"), { textContent: `${text} ` });
  input.setAttribute("aria-invalid", "true");
  input.closest(".field").classList.add("wrong");
  of(`d-${name}`).prepend(told);
  input.focus();
}

function forgive() {
  for (const field of form.querySelectorAll(".wrong")) {
    field.classList.remove("wrong");
    field.querySelector("[aria-invalid]").removeAttribute("aria-invalid");
    field.querySelector("strong").remove();
  }
}

function refused(why) {
  say(why, "bad");
  const name = why.match(/^(box|version|provider|architecture) "/)?.[1];
  if (name) blame(name, why);
  return false;
}

// Whether it may be gone on with after what failed, once it is time to.
async function mayGoOn(error, file) {
  const answer = error.originalResponse ?? error.causingError?.response;
  if (!answer) {
    const isReadable = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
    if (!isReadable) return refused("The file cannot be read any more, or was changed. Choose it again.");
    if (!(error.causingError instanceof ProgressEvent)) return refused(error.causingError?.message ?? error.message);
    return again(LOST);
  }
  const status = answer.getStatus();
  const why = sentence(status, answer.getBody());
  // With the session of before it would be the same again; with another one it is not.
  if (status === 401 || status === 403) return (await sessionEnded()) || refused(why);
  if (status >= 400 && !comesBack(status)) return refused(why);
  return again(why, answer.getHeader("Retry-After"));
}

// One run of the client, until it is through, fails or is interrupted.
function attempt() {
  return new Promise((settle) => {
    began = null;
    upload.options.onError = settle;
    upload.options.onSuccess = () => settle(null);
    interrupt = () => {
      upload.abort();
      settle(INTERRUPTED);
    };
    upload.start();
  });
}

async function untilGoOn() {
  if (!paused) return;
  of("again").hidden = true;
  say("Paused.");
  while (paused) await new Promise((over) => (interrupt = over));
  say("Going on.");
}

// Whether all of it was sent; this is the only place that starts the client.
async function isSent(file) {
  for (;;) {
    await untilGoOn();
    const failure = await attempt();
    if (failure === null) return true;
    if (failure !== INTERRUPTED && !(await mayGoOn(failure, file))) return false;
  }
}

// What the server says of the file that it stored, or why it says nothing.
async function stored(path) {
  let why = "";
  tries = 0;
  while (tries < COMPARISONS) {
    const answer = await fetch(path, { headers: { "X-CSRF-Token": token } }).catch(() => null);
    const body = (await answer?.text().catch(() => "")) ?? "";
    if (answer?.ok && body.startsWith("{")) {
      const told = JSON.parse(body);
      if (told.details) return { sha256: told.details.sha256, isPublished: true, why };
      why = told.reason || "It is not published yet.";
    } else {
      why = answer ? sentence(answer.status, body) : LOST;
    }
    if (answer?.status === 401 || answer?.status === 403) {
      if (!(await sessionEnded())) break;
      say("Comparing digests.");
    } else if (answer?.status >= 400 && !comesBack(answer.status)) {
      break;
    } else {
      await again(why, answer?.headers.get("Retry-After"));
    }
  }
  return { sha256: null, isPublished: false, why };
}

async function compared(target, digest) {
  of("digests").hidden = false;
  say("All of it was sent. Comparing digests.");
  const path = new URL(upload.url, location.href).pathname;
  const [ours, { sha256: theirs, isPublished, why }] = await Promise.all([digest, stored(path)]);
  of("ours").textContent = ours ?? "could not be computed";
  of("theirs").textContent = theirs ?? "is not known yet";
  const [organization, name] = target.split("/");
  const href = `${settings.boxes}/${organization}/${name}`;
  const link = Object.assign(document.createElement("a"), { href, id: "published", textContent: "See the box" });
  if (!theirs && isPublished) {
    say("Published. The server computes its SHA-256 now, and shows it at the box. ");
  } else if (!theirs) {
    say(`All of it was sent, but the server does not tell what it stored: ${why} Compare digests at the box later. `, "bad");
  } else if (!ours) {
    say("Published. ");
  } else if (ours === theirs) {
    say("Published, and what is stored is what you have. ", "good");
  } else {
    say("Published, but what is stored is NOT what you have: upload it again. ", "bad");
  }
  of("said").append(link);
}

function client(file, target) {
  return new tus.Upload(file, {
    endpoint: settings.files,
    httpStack: sameOrigin,
    chunkSize: Number(settings.chunk),
    // It is tried again here, where a pause can hold it.
    retryDelays: null,
    metadata: { target, filename: file.name },
    removeFingerprintOnSuccess: true,
    fingerprint: async () => ["boxgate", settings.user, target, file.name, file.size, file.lastModified].join("-"),
    onBeforeRequest: (request) => request.setHeader("X-CSRF-Token", token),
    onProgress: progress,
    onChunkComplete: (_, accepted) => arrived(accepted),
  });
}

async function run(file) {
  const names = ["box", "version", "provider", "architecture"].map((name) => [name, form.elements[name].value.trim()]);
  forgive();
  const [odd] = names.find(([, value]) => !value || value.includes("/")) ?? [];
  if (odd) return blame(odd, "This must be a name without slashes.");
  const target = [settings.organization, ...names.map(([, value]) => value)].join("/");
  [running, paused, tries, furthest] = [true, false, 0, 0];
  of("start").disabled = true;
  of("digests").hidden = true;
  of("pause").hidden = false;
  of("pause").textContent = "Pause";
  const digest = digested(file);
  upload = client(file, target);
  const [previous] = await upload.findPreviousUploads();
  if (previous) upload.resumeFromPreviousUpload(previous);
  say(previous ? "Going on with what was sent before." : "Sending.");
  const isWhole = await isSent(file);
  paused = false;
  of("pause").hidden = true;
  if (isWhole) await compared(target, digest);
  running = false;
  of("start").disabled = false;
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = of("file").files[0];
    if (file && !running) run(file);
  });
  of("pause").addEventListener("click", () => {
    paused = !paused;
    of("pause").textContent = paused ? "Go on" : "Pause";
    interrupt();
  });
  const drop = of("drop");
  // A file that is dropped beside the field would be opened in the place of the page.
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      const isHere = drop.contains(event.target);
      drop.classList.toggle("over", isHere && (kind === "dragenter" || kind === "dragover"));
      if (kind === "drop" && isHere) of("file").files = event.dataTransfer.files;
    });
  }
  addEventListener("beforeunload", (event) => {
    if (running && !paused) event.preventDefault();
  });
}

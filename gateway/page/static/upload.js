// A box on its way in, by tus: in pieces, from where it stands, whatever happens to the tab, the network or the session.

const form = document.getElementById("upload");
const of = (id) => document.getElementById(id);
const settings = form?.dataset ?? {};
const RETRIES = [0, 1000, 3000];

let token = settings.token;
let upload = null;
let running = false;
let digest = null;
let began = null;
let ended = false;

// Uploads are told where to go on by a path: the page may be reached by another address than the one that is told.
class SameOrigin {
  constructor() {
    this.stack = new tus.DefaultHttpStack({});
  }
  getName() {
    return "SameOrigin";
  }
  createRequest(method, url) {
    const request = this.stack.createRequest(method, url);
    const send = request.send.bind(request);
    request.send = async (body) => {
      const response = await send(body);
      const status = response.getStatus();
      if (method === "HEAD" && (status === 401 || status === 403)) {
        // tus would forget where it stood and begin anew.
        ended = true;
        throw new Error("the session ended");
      }
      const header = response.getHeader.bind(response);
      response.getHeader = (name) => {
        const value = header(name);
        if (name !== "Location" || !value) return value;
        return new URL(value, location.href).pathname;
      };
      return response;
    };
    return request;
  }
}

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

function progress(sent, total) {
  const now = performance.now();
  began ??= { sent, now };
  const rate = (sent - began.sent) / ((now - began.now) / 1000);
  of("bar").value = total ? sent / total : 0;
  const left = rate > 0 ? `, ${sized(rate)}/s, ${timed((total - sent) / rate)} left` : "";
  of("numbers").textContent = `${sized(sent)} of ${sized(total)}${left}`;
}

// The file's digest, computed beside the upload.
function digested(file) {
  return new Promise((resolve) => {
    const worker = new Worker(settings.digest);
    worker.onmessage = ({ data }) => {
      resolve(data);
      worker.terminate();
    };
    worker.onerror = () => resolve(null);
    worker.postMessage({ file, library: settings.sha256 });
  });
}

async function outcome(url) {
  const answer = await fetch(url, { headers: { "X-CSRF-Token": token } });
  if (!answer.ok) return null;
  return (await answer.json()).details ?? null;
}

async function done(target) {
  running = false;
  of("pause").hidden = true;
  of("digests").hidden = false;
  say("All of it was sent. Comparing digests.");
  const [ours, theirs] = await Promise.all([digest, outcome(new URL(upload.url, location.href).pathname)]);
  of("ours").textContent = ours ?? "could not be computed";
  of("theirs").textContent = theirs?.sha256 ?? "is not known yet";
  const [organization, name] = target.split("/");
  const link = document.createElement("a");
  link.href = `${settings.boxes}/${organization}/${name}`;
  link.textContent = "See the box";
  link.id = "published";
  if (ours && theirs && ours === theirs.sha256) {
    say("Published, and what is stored is what you have. ", "good");
  } else if (ours && theirs) {
    say("Published, but what is stored is NOT what you have: upload it again. ", "bad");
  } else {
    say("Published. ");
  }
  of("said").append(link);
  of("start").disabled = false;
}

// Asks for a session until there is one, then goes on.
async function signedIn() {
  of("again").hidden = false;
  for (;;) {
    const answer = await fetch(settings.session).catch(() => null);
    if (answer?.ok) {
      const session = await answer.json();
      if (session.user && session.user !== settings.user) {
        say(`You are signed in as ${session.user} now; ${settings.user} began this upload.`, "bad");
      } else if (session.token) {
        token = session.token;
        of("again").hidden = true;
        return;
      }
    }
    await new Promise((again) => setTimeout(again, 2000));
  }
}

function words(error) {
  const body = error.originalResponse?.getBody();
  try {
    return JSON.parse(body).detail ?? error.message;
  } catch {
    return error.message;
  }
}

async function failed(error) {
  const status = error.originalResponse?.getStatus() ?? 0;
  if (ended || status === 401 || status === 403) {
    say("Your session ended. Sign in again, and the upload goes on.", "bad");
    await signedIn();
    go();
  } else if (status === 0 || status === 409 || status === 423 || status === 429 || status >= 500) {
    say("The connection was lost. It is tried again.", "bad");
    if (!navigator.onLine) {
      await new Promise((back) => addEventListener("online", back, { once: true }));
    } else {
      await new Promise((again) => setTimeout(again, 3000));
    }
    if (running) go();
  } else {
    running = false;
    of("pause").hidden = true;
    of("start").disabled = false;
    say(words(error), "bad");
  }
}

function go() {
  ended = false;
  began = null;
  running = true;
  of("pause").hidden = false;
  of("pause").textContent = "Pause";
  say("Sending.");
  upload.start();
}

async function begin(file) {
  const field = (name) => form.elements[name].value.trim();
  const target = [settings.organization, field("box"), field("version"), field("provider"), field("architecture")].join("/");
  of("start").disabled = true;
  digest = digested(file);
  upload = new tus.Upload(file, {
    endpoint: settings.files,
    httpStack: new SameOrigin(),
    chunkSize: Number(settings.chunk),
    retryDelays: RETRIES,
    metadata: { target, filename: file.name },
    storeFingerprintForResuming: true,
    removeFingerprintOnSuccess: true,
    fingerprint: async () => ["boxgate", settings.user, target, file.name, file.size, file.lastModified].join("-"),
    onBeforeRequest: (request) => request.setHeader("X-CSRF-Token", token),
    onShouldRetry: (error) => {
      if (ended || !navigator.onLine) return false;
      const status = error.originalResponse?.getStatus() ?? 0;
      return status === 0 || status === 409 || status === 423 || status === 429 || status >= 500;
    },
    onProgress: progress,
    onError: failed,
    onSuccess: () => done(target),
  });
  const previous = await upload.findPreviousUploads();
  if (previous.length) {
    upload.resumeFromPreviousUpload(previous[0]);
    say("Going on with what was sent before.");
  }
  go();
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = of("file").files[0];
    if (file && !running) begin(file);
  });
  of("pause").addEventListener("click", async () => {
    if (running) {
      running = false;
      await upload.abort();
      of("pause").textContent = "Go on";
      say("Paused.");
    } else {
      go();
    }
  });
  const drop = of("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.remove("over");
    });
  }
  drop.addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length) of("file").files = event.dataTransfer.files;
  });
  addEventListener("beforeunload", (event) => {
    if (running) event.preventDefault();
  });
}

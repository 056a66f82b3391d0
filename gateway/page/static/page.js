// Small comforts; every page is whole without them.

// Lines to type can be copied.
for (const lines of document.querySelectorAll("pre[data-copy]")) {
  if (!navigator.clipboard) break;
  const text = lines.textContent;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copied";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  lines.append(button);
}

// What cannot be undone is asked about.
for (const form of document.querySelectorAll("form[data-ask]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.ask)) event.preventDefault();
  });
}

// What is looked at again and again says so when that fails, and why.
const stale = document.getElementById("stale");
if (stale) {
  const says = (why) => {
    stale.querySelector("span").textContent = why;
    stale.hidden = false;
  };
  const why = { 401: "you are signed out", 403: "you may not see it any more", 429: "too many requests" };
  document.body.addEventListener("htmx:responseError", ({ detail: { xhr } }) => says(why[xhr.status] ?? `the answer was ${xhr.status}`));
  document.body.addEventListener("htmx:sendError", () => says("nobody answers"));
  document.body.addEventListener("htmx:timeout", () => says("no answer came in time"));
  document.body.addEventListener("htmx:afterSwap", () => (stale.hidden = true));
}

// The first field that is wrong is where one goes on.
document.querySelector("[aria-invalid]")?.focus();

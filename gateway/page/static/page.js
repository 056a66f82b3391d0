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

// The first field that is wrong is where one goes on.
document.querySelector("[aria-invalid]")?.focus();

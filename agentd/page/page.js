"use strict";
// Refreshes the page in place while somebody looks at it, and says so when it cannot: nothing old looks new.
(() => {
  const EVERY = 5000; // ms between two refreshes
  const PATIENCE = 15000; // ms for an answer
  const bar = document.getElementById("refresh");
  const said = bar.appendChild(document.createElement("span"));
  const button = bar.appendChild(document.createElement("button"));
  button.type = "button";
  let timer = 0, paused = false, asking = false, good = new Date();

  const alike = (old, now) => old.nodeType === now.nodeType && old.nodeName === now.nodeName && old.id === now.id;

  // Makes the old element equal to the new one, and leaves alone what is equal: focus, scroll, selection stay.
  function update(old, now) {
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !now.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of now.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const children = [...now.childNodes];
    children.forEach((child, at) => {
      const other = old.childNodes[at];
      if (!other) old.append(child);
      else if (!alike(other, child)) other.replaceWith(child);
      else if (child.nodeType === Node.ELEMENT_NODE) update(other, child);
      else if (other.nodeValue !== child.nodeValue) other.nodeValue = child.nodeValue;
    });
    while (old.childNodes.length > children.length) old.lastChild.remove();
  }

  function say(text, old) {
    if (said.textContent !== text) said.textContent = text;
    button.textContent = paused ? "Go on" : "Pause";
    document.documentElement.classList.toggle("old", old);
  }

  const fail = (why) => say(`Not refreshed since ${good.toLocaleTimeString()}: ${why}. What is shown is old.`, true);

  async function refresh() {
    clearTimeout(timer);
    if (asking || paused || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      const html = (answer.headers.get("Content-Type") || "").startsWith("text/html");
      const page = html ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
      if (answer.ok && page) {
        update(document.querySelector("main"), page.querySelector("main"));
        update(document.querySelector("nav"), page.querySelector("nav"));
        document.title = page.title;
        good = new Date();
        say("Refreshed every 5 seconds", false);
      } else {
        const why = page && page.querySelector("h1");
        fail(why ? why.textContent : `agentd answers with status ${answer.status}`);
      }
    } catch (error) {
      fail("agentd does not answer");
    } finally {
      asking = false;
      timer = setTimeout(refresh, EVERY);
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    say(paused ? "Paused: what is shown may be old" : "Refreshing", paused);
    refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused && new Date() - good > EVERY) say("Refreshing: what is shown is old", true);
    refresh();
  });
  say("Refreshed every 5 seconds", false);
  timer = setTimeout(refresh, EVERY);
})();

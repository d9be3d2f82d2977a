// Keys for reviewers. Everything works without this file.
"use strict";
{
  const asks = [...document.querySelectorAll("[data-ask]")];
  const marked = () => asks.find((ask) => ask === document.activeElement || ask.contains(document.activeElement));
  const move = (by) => {
    const at = asks.indexOf(marked());
    const to = at < 0 ? (by > 0 ? 0 : asks.length - 1) : Math.min(Math.max(at + by, 0), asks.length - 1);
    asks[to].focus({ preventScroll: true });
    asks[to].scrollIntoView({ block: "start" });
  };
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    a: () => marked()?.querySelector("[data-approve]")?.requestSubmit(),
    r: () => marked()?.querySelector("[data-reject] [name=reason]")?.focus(),
  };
  if (asks.length) {
    document.querySelectorAll(".keys").forEach((legend) => legend.removeAttribute("hidden"));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      if (event.target.matches("input, select, textarea")) {
        if (event.key === "Escape") marked()?.focus();
        return;
      }
      if (!Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
  // One press, one request: a second one would only be told that the first has answered.
  document.addEventListener("submit", (event) => {
    if (event.target.method === "post") event.target.querySelectorAll("button").forEach((button) => (button.disabled = true));
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("form button").forEach((button) => (button.disabled = false)));
}

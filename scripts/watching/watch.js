"use strict";
// Takes in the page's body again while it is looked at; what is out of sight asks for nothing.
const EVERY = 2000;
const main = document.querySelector("main"), still = document.getElementById("still");
let tag = "";
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/body" + location.search, { headers: { "If-None-Match": tag }, cache: "no-store" });
    still.textContent = "";
    if (answer.status === 304 || !answer.ok) return;
    tag = answer.headers.get("ETag") || "";
    const text = await answer.text(), focused = document.activeElement && document.activeElement.id;
    const places = [...document.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    main.innerHTML = text;  // made and escaped by this page's own server
    const name = document.querySelector("h1");
    if (name) document.title = name.firstChild.textContent.trim();
    document.querySelectorAll(".scroll").forEach((one, n) => { one.scrollLeft = places[n] || 0; });
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
  } catch {
    still.textContent = "make watch has ended: this page stands still.";
  }
}
async function again() { await refresh(); setTimeout(again, EVERY); }
document.addEventListener("visibilitychange", refresh);
setTimeout(again, EVERY);

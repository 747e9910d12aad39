"use strict";
// Puts pieces of the page in their places as they change. Without this, the page is loaded anew.
(() => {
  let source = null;
  const listen = () => {
    if (source) source.close();
    source = null;
    const places = [...document.querySelectorAll("[data-live]")];
    if (!places.length || !window.EventSource) return;
    const names = [...new Set(places.map((place) => place.dataset.live))];
    const query = names.map((name) => "name=" + encodeURIComponent(name)).join("&");
    source = new EventSource("/live/events?" + query);
    for (const name of names) {
      source.addEventListener(name, (event) => {
        for (const place of places) {
          if (place.dataset.live === name && place.innerHTML !== event.data) {
            place.innerHTML = event.data;
          }
        }
      });
    }
    source.addEventListener("ended", renew);
  };
  // A run has ended: what the page says of sources may have changed.
  const renew = async () => {
    const main = document.querySelector("main[data-renew]");
    if (!main || main.contains(document.activeElement)) return;
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("main");
    if (!fresh) return;
    main.replaceChildren(...fresh.childNodes);
    listen();
  };
  listen();
  addEventListener("pagehide", () => source && source.close());
  addEventListener("pageshow", (event) => event.persisted && listen());
})();

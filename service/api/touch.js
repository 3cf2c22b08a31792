(function (w, d) {
  "use strict";
  var s = d.currentScript, o = s.dataset, u = o.link, b = new URL(s.src).origin;
  function fail(m) { w.console && console.warn("firstopen: " + m); }
  function copy() {
    if (w.navigator.clipboard) return navigator.clipboard.writeText(u).catch(old);
    return Promise.resolve(old());
  }
  function old() {
    var t = d.createElement("textarea");
    t.value = u;
    t.readOnly = true;
    t.style.position = "fixed";
    t.style.opacity = 0;
    d.body.appendChild(t);
    t.select();
    var ok = d.execCommand("copy");
    d.body.removeChild(t);
    if (!ok) throw new Error("copy refused");
  }
  function click() {
    var q = new URLSearchParams(w.location.search).get("dub_id");
    var c = /(?:^|; )dub_id=([^;]*)/.exec(d.cookie);
    return q || (c && decodeURIComponent(c[1])) || undefined;
  }
  function touch(consent) {
    var t = { url: u, clickId: click() };
    if (consent !== undefined) t.consent = consent;
    if ("signals" in o) {
      t.language = navigator.language;
      t.timezone = Intl.DateTimeFormat().resolvedOptions().timeZone;
      t.screen = screen.width + "x" + screen.height + "@" + w.devicePixelRatio;
    }
    return fetch(b + "/v1/touches", {
      method: "POST",
      keepalive: true,
      credentials: "omit",
      headers: { "Content-Type": "application/json", Authorization: "Bearer " + o.key },
      body: JSON.stringify(t)
    }).then(function (r) { if (!r.ok) fail("touch " + r.status); }, function () { fail("not reached"); });
  }
  w.firstopen = { copy: copy, touch: touch };
  if (!o.key || !u) fail("data-key and data-link are needed");
  else if (o.consent !== "ask") touch(o.consent === "true" ? true : undefined);
})(window, document);

// A log that grows. Who looks at its end goes along; who has scrolled up stays there.
function render({ model, el }) {
  const head = document.createElement("div"), title = document.createElement("b"), note = document.createElement("span");
  head.style.cssText = "color:var(--jp-ui-font-color1, var(--vscode-foreground, inherit));font-size:var(--jp-ui-font-size1, 13px);line-height:1.6";
  head.append(title, note);
  const box = document.createElement("div"), text = document.createElement("pre");
  box.tabIndex = 0;
  box.setAttribute("role", "log");
  box.setAttribute("aria-live", "off");  // it would never be silent
  box.style.cssText = "max-height:22em;overflow:auto;padding:.4em;border:1px solid var(--jp-border-color2, var(--vscode-panel-border, #ccc))";
  text.style.cssText =
    "margin:0;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4;background:none;" +
    "color:var(--jp-content-font-color1, var(--vscode-foreground, inherit));font-family:var(--jp-code-font-family, monospace);font-size:var(--jp-code-font-size, 13px)";
  box.append(text);
  el.append(head, box);

  function name() {
    title.textContent = model.get("title");
    note.textContent = model.get("note") ? ` · ${model.get("note")}` : "";
    box.setAttribute("aria-label", model.get("title") || "log");
  }

  function heard(content) {
    const isAtEnd = content.kind === "all" || box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
    text.textContent = content.kind === "all" ? content.text : text.textContent.slice(0, content.keep) + content.text;
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }

  // the keys of the log are its own: a notebook would take them for its cells
  box.addEventListener("keydown", (event) => { if (/^(Arrow|Page|Home|End| )/.test(event.key)) event.stopPropagation(); });
  name();
  model.on("change:title change:note", name);
  model.on("msg:custom", heard);
  model.send({ kind: "ask" });
  return () => { model.off("change:title change:note", name); model.off("msg:custom", heard); };
}
export default { render };

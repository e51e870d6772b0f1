"""CopyButton: puts a text onto the clipboard, which only the front end can."""

from __future__ import annotations

import anywidget
import traitlets

__all__ = ["CopyButton"]


class CopyButton(anywidget.AnyWidget):
    """A button that copies `text`, and says that it has."""

    _esm = traitlets.Unicode("""
        function render({ model, el }) {
          const button = document.createElement("button");
          button.className = "jupyter-widgets jupyter-button widget-button";
          button.style.width = "auto";
          button.textContent = model.get("label");
          button.addEventListener("click", async () => {
            const text = model.get("text");
            try {
              await navigator.clipboard.writeText(text);
            } catch {
              const area = document.createElement("textarea");  // where the page may not use the clipboard by itself
              area.value = text;
              document.body.append(area);
              area.select();
              document.execCommand("copy");
              area.remove();
            }
            button.textContent = "Copied";
            setTimeout(() => { button.textContent = model.get("label"); }, 1500);
          });
          el.append(button);
        }
        export default { render };
    """).tag(sync=True)
    label = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)

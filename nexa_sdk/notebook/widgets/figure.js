// Plotly's script is large. anywidget gives up what is not ready after two seconds, and from then on drops what the kernel
// sends; so this is ready at once. What comes before plotly is there is kept, and told to it then.
async function load(script) {
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  try {
    return (await import(url)).default();
  } finally {
    URL.revokeObjectURL(url);
  }
}

export default () => {
  let figure, model, heard = [];
  return {
    initialize(given) {
      model = given.model;
      const kept = [];
      let told = [];
      const keep = (event, _, value) => { if (event.startsWith("change:_py2js_") && value) kept.push([event, value]); };
      model.on("all", keep);
      figure = load(model.get("_script")).then((plotly) => {
        model.off("all", keep);
        plotly.initialize({
          model: {
            ...model,
            get: (name) => (told[0] === `change:${name}` ? told[1] : model.get(name)),
            on: (event, listener) => { heard.push([event, listener]); model.on(event, listener); },
          },
        });
        const listeners = Object.fromEntries(heard);
        for (told of kept) listeners[told[0]]?.();
        told = [];
        return plotly;
      });
    },
    // Drawn when it has a place, and anew when that is wider or narrower: plotly fits a figure to its place once, and not
    // if it has none yet; and what it draws goes on to listen when it is removed.
    async render({ el }) {
      const plotly = await figure;
      let remove, mine, width, soon;
      const clear = () => {
        clearTimeout(soon);
        for (const [event, listener] of mine ?? []) model.off(event, listener);
        remove?.();
      };
      const draw = () => {
        clear();
        heard = mine = [];
        remove = plotly.render({ el });
      };
      const observer = new ResizeObserver(() => {
        if (!el.clientWidth || el.clientWidth === width) return;
        width = el.clientWidth;
        clearTimeout(soon);
        if (remove) soon = setTimeout(draw, 100);
        else draw();
      });
      observer.observe(el);
      return () => { observer.disconnect(); clear(); };
    },
  };
};

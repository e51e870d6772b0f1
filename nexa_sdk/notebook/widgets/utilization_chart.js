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
  let figure;
  return {
    initialize({ model }) {
      const kept = [], listeners = {};
      let told = [];
      const keep = (event, _, value) => { if (event.startsWith("change:_py2js_") && value) kept.push([event, value]); };
      model.on("all", keep);
      figure = load(model.get("_script")).then((plotly) => {
        model.off("all", keep);
        plotly.initialize({
          model: {
            ...model,
            get: (name) => (told[0] === `change:${name}` ? told[1] : model.get(name)),
            on: (event, listener) => { listeners[event] = listener; model.on(event, listener); },
          },
        });
        for (told of kept) listeners[told[0]]?.();
        told = [];
        return plotly;
      });
    },
    async render({ el }) { return (await figure).render({ el }); },
  };
};

/* Adapter of the player to gr.HTML: value in, draw. */
const root = element.querySelector(".ds-player");
let plotlyReady = null;
const plotly = () => {
  plotlyReady ??= new Promise((resolve, reject) => {
    if (window.Plotly) return resolve(window.Plotly);
    const script = document.createElement("script");
    script.src = props.plotly_url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    document.head.append(script);
  });
  return plotlyReady;
};
const player = DiffuSpecPlayer.mount(root, { plotly });
player.update(props.value);
watch("value", () => player.update(props.value));

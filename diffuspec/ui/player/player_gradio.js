/* Adapter of the player to gr.HTML: value in, draw. */
const player = DiffuSpecPlayer.mount(element.querySelector(".ds-player"), {
  plotly: () => DiffuSpecDraw.plotly(props.plotly_url),
  qr: (address) => server.qr_code(address),
});
player.update(props.value);
watch("value", () => player.update(props.value));

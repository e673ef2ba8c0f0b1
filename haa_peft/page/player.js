// The player: a new sound goes on where the old one was, so that configurations can be compared while they play.
const audio = element.querySelector('audio');
function play() {
  const address = props.value;
  if (!address || audio.dataset.shown === address) return;
  const at = audio.currentTime, playing = !audio.paused && !audio.ended, same = audio.dataset.sound === String(props.sound);
  audio.dataset.shown = address;
  audio.dataset.sound = String(props.sound);
  audio.src = address;
  audio.addEventListener('loadedmetadata', () => {
    if (same && at < audio.duration) audio.currentTime = at;
    if (playing) audio.play().catch(() => {});
  }, {once: true});
  audio.load();
}
watch(['value'], play);
play();

/** A line over a WebSocket: frames and signals as they are, and a close code. */

const SUBPROTOCOL = "conversation.v1.html";

export function openWebSocket(address, { onFrame, onClosed }) {
  const socket = new WebSocket(address, SUBPROTOCOL);
  let isGreeted = false;
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "hello") isGreeted = true;
    onFrame(frame, data.length);
  };
  socket.onclose = ({ code }) => onClosed({ code });
  return {
    echoes: true,
    send(signal) {
      if (!isGreeted || socket.readyState !== socket.OPEN) return false;
      socket.send(JSON.stringify(signal));
      return true;
    },
    close() {
      socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
}

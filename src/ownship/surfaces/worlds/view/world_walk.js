// A walk: a body of 0.25 m radius among boxes. What is lower than a step is walked over, what is above the head is walked under.
const RADIUS = 0.25;
const EYES = 1.62;
const HEAD = 1.75;
const STEP = 0.32;
const PACE = 1.7; // m/s; with Shift twice that
const STRIDE = 0.06; // m: no step is longer, so that nothing is jumped through
const TURN = 1.9; // rad/s, by keys and by stick

const KEYS = { KeyW: "ahead", ArrowUp: "ahead", KeyS: "back", ArrowDown: "back", KeyA: "left", KeyD: "right",
  ArrowLeft: "turnLeft", ArrowRight: "turnRight", ShiftLeft: "fast", ShiftRight: "fast", KeyQ: "turnLeft", KeyE: "turnRight" };

export class Walker {
  constructor() {
    this.solids = new Map(); // id → boxes [x, z, half width, half depth, turn, bottom, top]
    this.held = new Set();
    this.sticks = { move: [0, 0], look: [0, 0] };
    this.put(0, 0, Math.PI);
  }

  // `turn` as everywhere: at 0 one looks along +z, counter-clockwise.
  put(x, z, turn) {
    Object.assign(this, { x, z, y: 0, yaw: turn + Math.PI, pitch: 0 }); // the camera's own front is -z
    this.y = this.ground(x, z, 0);
    this.push();
  }

  key(code, down) {
    const what = KEYS[code];
    if (what === undefined) return false;
    if (down) this.held.add(what);
    else this.held.delete(what);
    return true;
  }

  release() {
    this.held.clear();
    this.sticks = { move: [0, 0], look: [0, 0] };
  }

  look(dx, dy) {
    this.yaw -= dx;
    this.pitch = Math.min(Math.max(this.pitch - dy, -1.4), 1.4);
  }

  get busy() {
    return this.held.size > 0 || [...this.sticks.move, ...this.sticks.look].some((value) => value !== 0);
  }

  // Goes on for `seconds`; returns whether anything changed.
  step(seconds) {
    const on = (what) => (this.held.has(what) ? 1 : 0);
    this.look((on("turnRight") - on("turnLeft") + this.sticks.look[0]) * TURN * seconds, this.sticks.look[1] * TURN * seconds * 0.7);
    let ahead = on("ahead") - on("back") - this.sticks.move[1];
    let right = on("right") - on("left") + this.sticks.move[0];
    const size = Math.hypot(ahead, right);
    if (size > 1) [ahead, right] = [ahead / size, right / size];
    let way = Math.hypot(ahead, right) * PACE * (this.held.has("fast") ? 2 : 1) * seconds;
    if (way === 0) return this.busy;
    const [sin, cos] = [Math.sin(this.yaw), Math.cos(this.yaw)];
    const [dx, dz] = [-sin * ahead + cos * right, -cos * ahead - sin * right].map((part) => part / Math.hypot(ahead, right));
    while (way > 0) {
      const stride = Math.min(way, STRIDE);
      way -= stride;
      this.x += dx * stride;
      this.z += dz * stride;
      this.push();
      this.y = this.ground(this.x, this.z, this.y);
    }
    return true;
  }

  // Out of whatever the body is in.
  push() {
    for (let round = 0; round < 4; round++) {
      let free = true;
      for (const box of this.boxes()) {
        const [x, z, w, d, turn, bottom, top] = box;
        if (top <= this.y + STEP || bottom >= this.y + HEAD) continue;
        const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
        const [rx, rz] = [this.x - x, this.z - z];
        const [lx, lz] = [rx * cos - rz * sin, rx * sin + rz * cos]; // in the box's own frame
        const [nx, nz] = [Math.min(Math.max(lx, -w), w), Math.min(Math.max(lz, -d), d)];
        let [ox, oz] = [lx - nx, lz - nz];
        const distance = Math.hypot(ox, oz);
        if (distance >= RADIUS) continue;
        free = false;
        if (distance > 1e-9) {
          [ox, oz] = [(ox / distance) * (RADIUS - distance), (oz / distance) * (RADIUS - distance)];
        } else if (w - Math.abs(lx) < d - Math.abs(lz)) { // inside: out by the nearest side
          [ox, oz] = [(w - Math.abs(lx) + RADIUS) * (lx < 0 ? -1 : 1), 0];
        } else {
          [ox, oz] = [0, (d - Math.abs(lz) + RADIUS) * (lz < 0 ? -1 : 1)];
        }
        this.x += ox * cos + oz * sin;
        this.z += -ox * sin + oz * cos;
      }
      if (free) return;
    }
  }

  // The height of what is underfoot: the floor, or a box that is no higher than a step.
  ground(x, z, feet) {
    let height = 0;
    for (const [bx, bz, w, d, turn, , top] of this.boxes()) {
      if (top > feet + STEP || top <= height) continue;
      const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
      const [rx, rz] = [x - bx, z - bz];
      if (Math.abs(rx * cos - rz * sin) <= w && Math.abs(rx * sin + rz * cos) <= d) height = top;
    }
    return height;
  }

  *boxes() {
    for (const boxes of this.solids.values()) yield* boxes;
  }

  aim(camera) {
    camera.position.set(this.x, this.y + EYES, this.z);
    camera.rotation.set(this.pitch, this.yaw, 0, "YXZ");
  }
}

// A virtual stick: where the finger is off its middle, as two numbers from -1 to 1.
export function stick(element, changed) {
  const knob = element.firstElementChild;
  let finger = null;
  const set = (x, y) => {
    knob.style.transform = `translate(${x * 36}px, ${y * 36}px)`;
    changed([Math.abs(x) < 0.12 ? 0 : x, Math.abs(y) < 0.12 ? 0 : y]);
  };
  const moved = (event) => {
    if (event.pointerId !== finger) return;
    const box = element.getBoundingClientRect();
    let [x, y] = [(event.clientX - box.left) / box.width * 2 - 1, (event.clientY - box.top) / box.height * 2 - 1];
    const size = Math.hypot(x, y);
    if (size > 1) [x, y] = [x / size, y / size];
    set(x, y);
  };
  element.addEventListener("pointerdown", (event) => {
    finger = event.pointerId;
    element.setPointerCapture(finger);
    moved(event);
    event.preventDefault();
  });
  element.addEventListener("pointermove", moved);
  for (const type of ["pointerup", "pointercancel"]) {
    element.addEventListener(type, (event) => {
      if (event.pointerId !== finger) return;
      finger = null;
      set(0, 0);
    });
  }
}

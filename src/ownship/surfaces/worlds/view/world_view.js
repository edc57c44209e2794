// The view of a world: orbit around it, walk in it, pick what is in it. Draws only when something has changed.
import { GLTFLoader, OrbitControls, THREE } from "nicegui-scene";
import { Meshes } from "world_meshes";
import { Walker, stick } from "world_walk";

const SKIES = { // light from above and below, the sun, how much lamps count
  day: { sky: "#ffffff", ground: "#d9d0c3", ambient: 1.75, sun: "#fff1dc", strength: 2.1, lamps: 0.012 },
  dusk: { sky: "#c9b6d8", ground: "#7d5c4a", ambient: 0.8, sun: "#ff9a5c", strength: 1.5, lamps: 0.03 },
  night: { sky: "#5f7395", ground: "#232a38", ambient: 0.5, sun: "#9db7e8", strength: 0.35, lamps: 0.05 },
};
const LAMPS = 6; // lights of the world that shine at once, the strongest: their number is fixed, for each change compiles shaders again
const WIDE = 1.25; // how much room the orbit leaves around the world

export default {
  template: `
    <div class="world-view" :data-mode="mode" :data-ready="ready">
      <canvas ref="canvas" tabindex="0" :aria-label="label" role="application"></canvas>
      <div class="crosshair" aria-hidden="true"></div>
      <div class="stick stick-move" ref="move" aria-hidden="true"><i></i></div>
      <div class="stick stick-look" ref="look" aria-hidden="true"><i></i></div>
      <p class="view-failed" v-if="failed">{{ failed }}</p>
    </div>`,
  props: { label: String },
  data: () => ({ mode: "orbit", ready: false, failed: "" }),

  mounted() {
    const canvas = this.$refs.canvas;
    try {
      this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true, powerPreference: "high-performance" });
    } catch {
      this.failed = "This browser shows no 3-D (WebGL is off). Everything else works: the picture and the files are under Export.";
      this.$emit("ready");
      return;
    }
    const gl = this.renderer.getContext();
    const maker = gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER);
    this.soft = /swiftshader|llvmpipe|software|basic render/i.test(maker); // no graphics card: the processor draws
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = THREE.PCFSoftShadowMap;
    this.renderer.shadowMap.autoUpdate = false;
    this.renderer.toneMapping = THREE.NeutralToneMapping;
    this.ratio = this.soft ? 0.6 : Math.min(devicePixelRatio, 2);
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(48, 1, 0.05, 600);
    this.camera.position.set(6, 6, 9);
    this.meshes = new Meshes(this.scene);
    this.walker = new Walker();
    this.loader = new GLTFLoader();
    this.queue = Promise.resolve();
    this.chosen = null;
    this.sky = "day";
    this.lightUp();
    this.controls = new OrbitControls(this.camera, canvas);
    Object.assign(this.controls, { enableDamping: !this.meshes.still, dampingFactor: 0.12, maxPolarAngle: 1.54, minDistance: 0.8,
      maxDistance: 150 });
    this.controls.addEventListener("change", () => this.draw());
    this.listen(canvas);
    this.restyle();
    this.ready = true;
    this.$emit("ready");
  },

  unmounted() {
    if (this.renderer === undefined) return;
    cancelAnimationFrame(this.frame);
    this.watches.forEach((stop) => stop());
    this.meshes.dispose();
    this.controls.dispose();
    this.renderer.dispose();
  },

  methods: {
    lightUp() {
      this.dome = new THREE.HemisphereLight();
      this.sun = new THREE.DirectionalLight();
      this.sun.castShadow = true;
      this.sun.shadow.mapSize.setScalar(this.soft ? 1024 : 2048);
      this.sun.shadow.bias = -0.0006;
      this.sun.shadow.normalBias = 0.025;
      this.lamps = Array.from({ length: LAMPS }, () => new THREE.PointLight("#fff", 0, 12));
      this.floor = new THREE.Mesh(new THREE.PlaneGeometry(400, 400).rotateX(-Math.PI / 2), new THREE.ShadowMaterial({ opacity: 0.16 }));
      this.floor.position.y = -0.06;
      this.floor.receiveShadow = true;
      this.frameOf = new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial());
      this.behind = new THREE.LineSegments(this.frameOf.geometry, new THREE.LineBasicMaterial({ depthTest: false, transparent: true, opacity: 0.3 }));
      this.frameOf.add(this.behind); // what others hide of the frame shines through
      this.frameOf.visible = false;
      this.scene.add(this.dome, this.sun, this.sun.target, ...this.lamps, this.floor, this.frameOf);
    },

    listen(canvas) {
      this.watches = [];
      const on = (target, type, handler, options) => {
        target.addEventListener(type, handler, options);
        this.watches.push(() => target.removeEventListener(type, handler, options));
      };
      const size = new ResizeObserver(() => this.resize());
      size.observe(this.$el);
      const theme = new MutationObserver(() => this.restyle());
      theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      this.watches.push(() => size.disconnect(), () => theme.disconnect());
      on(matchMedia("(prefers-color-scheme: dark)"), "change", () => this.restyle());
      let down = null;
      on(canvas, "pointerdown", (event) => {
        down = [event.clientX, event.clientY];
        canvas.focus({ preventScroll: true });
        if (this.mode === "walk" && event.pointerType === "mouse" && document.pointerLockElement !== canvas) this.dragging = true;
      });
      on(window, "pointermove", (event) => {
        const locked = document.pointerLockElement === canvas;
        if (this.mode !== "walk" || !(locked || this.dragging)) return;
        this.walker.look(event.movementX * 0.0024, event.movementY * 0.0024);
        this.draw();
      });
      on(window, "pointerup", (event) => {
        this.dragging = false;
        const still = down !== null && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 5;
        down = null;
        if (!still || event.target !== canvas) return;
        this.pick(event);
        if (this.mode === "walk" && event.pointerType === "mouse" && document.pointerLockElement !== canvas) {
          canvas.requestPointerLock()?.catch?.(() => {}); // where it is refused one looks around by dragging
        }
      });
      on(canvas, "keydown", (event) => this.pressed(event));
      on(window, "keyup", (event) => this.walker.key(event.code, false));
      on(window, "blur", () => this.walker.release());
      on(canvas, "blur", () => this.walker.release());
      on(canvas, "webglcontextrestored", () => this.draw(true));
      stick(this.$refs.move, (at) => { this.walker.sticks.move = at; this.draw(); });
      stick(this.$refs.look, (at) => { this.walker.sticks.look = at; this.draw(); });
    },

    pressed(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.mode === "walk") {
        if (event.code === "Escape") this.$emit("mode", "orbit");
        else if (!this.walker.key(event.code, true)) return;
      } else if (!this.turn(event.code)) return;
      event.preventDefault();
      this.draw();
    },

    // The orbit by keys: arrows turn, + and - come nearer and go away, 0 shows everything.
    turn(code) {
      const around = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.08], ArrowDown: [0, 0.08] }[code];
      const nearer = { Equal: 0.87, NumpadAdd: 0.87, BracketRight: 0.87, Minus: 1.15, NumpadSubtract: 1.15, Slash: 1.15 }[code];
      if (code === "Digit0" || code === "Home") this.fit();
      else if (code === "Escape") this.$emit("pick", null);
      else if (around === undefined && nearer === undefined) return false;
      const at = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(this.controls.target));
      at.theta += around?.[0] ?? 0;
      at.phi = Math.min(Math.max(at.phi + (around?.[1] ?? 0), 0.05), this.controls.maxPolarAngle);
      at.radius *= nearer ?? 1;
      this.camera.position.setFromSpherical(at).add(this.controls.target);
      this.controls.update();
      return true;
    },

    // What changed (changes.py): `url` is a file with what is new or has another shape, `shell` whether rooms and land are in it;
    // `first` is everything, `framed` is to be looked at as a whole.
    apply(change) {
      if (this.renderer === undefined) return;
      this.queue = this.queue.then(() => this.applied(change)).catch((error) => console.warn(`the view: ${error.message}`));
      return this.queue;
    },

    async applied(change) {
      let gltf = null;
      if (change.url) {
        const response = await fetch(change.url);
        if (!response.ok) return this.$emit("stale");
        gltf = await this.loader.parseAsync(await response.arrayBuffer(), "");
      }
      const now = performance.now();
      const empty = this.meshes.entities.size === 0;
      if (change.first) this.walker.solids.clear();
      if (change.first || change.shell) this.meshes.clear(change.first);
      for (const id of change.gone) {
        this.meshes.drop(id);
        this.walker.solids.delete(id);
      }
      for (const [id, place] of Object.entries(change.moved)) this.meshes.move(id, place, now);
      if (gltf !== null) this.meshes.take(gltf, now, change.first);
      for (const [id, boxes] of Object.entries(change.solids)) this.walker.solids.set(id, boxes);
      Object.assign(this, { spawn: change.spawn, sky: change.sky, lit: change.lamps });
      this.$el.dataset.objects = [...this.meshes.entities.values()].filter((entity) => entity.thing).length;
      this.$el.dataset.version = change.version;
      this.restyle();
      if (empty || change.first || change.framed) this.fit();
      if (this.mode === "walk") this.walker.push();
      this.choose(this.meshes.entities.has(this.chosen) ? this.chosen : null);
      this.draw(true);
    },

    setMode(mode) {
      if (this.renderer === undefined) return;
      if (mode === "walk" && this.mode !== "walk") {
        this.orbit = this.camera.position.clone();
        this.walker.put(...(this.spawn ?? [0, 3, Math.PI]));
      } else if (mode === "orbit" && this.mode !== "orbit") {
        this.walker.release();
        if (document.pointerLockElement) document.exitPointerLock();
        this.camera.position.copy(this.orbit);
        this.camera.rotation.order = "XYZ";
        this.controls.update();
      }
      this.mode = mode;
      this.controls.enabled = mode === "orbit";
      this.camera.fov = mode === "walk" ? 68 : 48;
      this.$refs.canvas.focus({ preventScroll: true });
      this.draw(true);
    },

    pick(event) {
      const box = this.$refs.canvas.getBoundingClientRect();
      const at = document.pointerLockElement === this.$refs.canvas ? [0, 0]
        : [((event.clientX - box.left) / box.width) * 2 - 1, 1 - ((event.clientY - box.top) / box.height) * 2];
      const ray = new THREE.Raycaster();
      ray.setFromCamera(new THREE.Vector2(...at), this.camera);
      const hit = this.meshes.pick(ray);
      this.$emit("pick", hit !== null && hit.entity.thing ? hit.entity.id : null);
    },

    choose(id) {
      if (this.renderer === undefined) return;
      if (this.chosen !== null) this.meshes.tint(this.chosen, this.accent, 0);
      this.chosen = id;
      const entity = this.meshes.entities.get(id);
      this.frameOf.visible = entity !== undefined;
      if (entity !== undefined) {
        this.meshes.tint(id, this.accent, 0.22);
        const size = entity.box.getSize(new THREE.Vector3()).addScalar(0.04);
        this.frameOf.geometry.dispose();
        this.frameOf.geometry = new THREE.EdgesGeometry(new THREE.BoxGeometry(...size.toArray()));
        this.behind.geometry = this.frameOf.geometry;
        const middle = entity.box.getCenter(new THREE.Vector3());
        this.frameOf.userData = { entity, middle };
      }
      this.draw();
    },

    fit() {
      const box = this.meshes.bounds();
      if (box.isEmpty() || this.mode !== "orbit") return;
      const sphere = box.getBoundingSphere(new THREE.Sphere());
      const narrow = Math.min(1, this.camera.aspect);
      const away = (Math.max(sphere.radius, 1.5) * WIDE) / Math.sin((this.camera.fov * Math.PI) / 360) / Math.max(narrow, 0.45) * 0.82;
      this.controls.target.copy(sphere.center).setY(Math.min(sphere.center.y, 0.9));
      this.camera.position.copy(this.controls.target).add(new THREE.Vector3(0.55, 0.72, 0.9).normalize().multiplyScalar(away));
      this.controls.update();
      this.draw();
    },

    // Colours come from the page's own tokens, so that dark and light hold here too.
    restyle() {
      this.accent = new THREE.Color(getComputedStyle(this.$el).color);
      for (const lines of [this.frameOf, this.behind]) lines.material.color.copy(this.accent);
      const sky = SKIES[this.sky] ?? SKIES.day;
      this.$el.dataset.sky = this.sky;
      this.dome.color.set(sky.sky);
      this.dome.groundColor.set(sky.ground);
      this.dome.intensity = sky.ambient;
      this.sun.color.set(sky.sun);
      this.sun.intensity = sky.strength;
      this.draw(true);
    },

    shine() {
      const box = this.meshes.bounds();
      if (box.isEmpty()) return;
      const sphere = box.getBoundingSphere(new THREE.Sphere());
      const reach = Math.max(sphere.radius, 2);
      this.sun.target.position.copy(sphere.center);
      this.sun.position.copy(sphere.center).add(new THREE.Vector3(0.5, 1.25, 0.62).normalize().multiplyScalar(reach * 2));
      Object.assign(this.sun.shadow.camera, { left: -reach, right: reach, top: reach, bottom: -reach, near: 0.1, far: reach * 4 });
      this.sun.shadow.camera.updateProjectionMatrix();
      const share = (SKIES[this.sky] ?? SKIES.day).lamps;
      this.lamps.forEach((lamp, index) => {
        const [x, y, z, r, g, b, candela] = this.lit?.[index] ?? [0, 0, 0, 0, 0, 0, 0];
        lamp.intensity = candela * share;
        lamp.color.setRGB(r / 255, g / 255, b / 255, THREE.SRGBColorSpace);
        lamp.position.set(x, y, z);
      });
    },

    // From outside one looks into the rooms: walls that turn their back to the camera, and ceilings, are left out.
    open() {
      const eye = this.camera.position;
      for (const entity of this.meshes.entities.values()) {
        const { outward, role } = entity.extras;
        const ceiling = role === "ceiling";
        if (outward === undefined && !ceiling) continue;
        if (this.mode === "walk") this.meshes.show(entity, true);
        else if (ceiling) this.meshes.show(entity, false);
        else {
          const middle = entity.box.getCenter(new THREE.Vector3()).applyMatrix4(entity.root);
          this.meshes.show(entity, (eye.x - middle.x) * outward[0] + (eye.z - middle.z) * outward[1] < 0);
        }
      }
    },

    resize() {
      const [width, height] = [this.$el.clientWidth, this.$el.clientHeight];
      if (width === 0 || height === 0) return;
      const turned = Math.abs(this.camera.aspect - width / height) > 0.4;
      this.renderer.setPixelRatio(this.ratio);
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / height;
      if (turned) this.fit();
      this.paint();
    },

    draw(shadows = false) {
      if (this.renderer === undefined) return;
      this.shadows ||= shadows;
      this.frame ??= requestAnimationFrame((now) => this.tick(now));
    },

    tick(now) {
      this.frame = null;
      const seconds = Math.min((now - (this.before ?? now)) / 1000, 0.1);
      this.shadows ||= this.meshes.moving.size > 0; // also for the last step, after which nothing moves
      let on = this.meshes.step(now);
      if (this.mode === "walk") on = this.walker.step(seconds) || on;
      else on = this.controls.update() || on;
      this.paint();
      this.steady(now);
      this.before = on ? now : undefined;
      if (on) this.draw();
    },

    paint() {
      if (this.mode === "walk") this.walker.aim(this.camera);
      this.camera.updateProjectionMatrix();
      this.camera.updateMatrixWorld();
      this.open();
      if (this.shadows) {
        this.shine();
        this.renderer.shadowMap.needsUpdate = true;
        this.shadows = false;
      }
      if (this.frameOf.visible) {
        const { entity, middle } = this.frameOf.userData;
        this.frameOf.position.copy(middle.clone().applyMatrix4(entity.root));
        this.frameOf.quaternion.copy(entity.turn);
      }
      this.renderer.render(this.scene, this.camera);
      const { x, y, z } = this.camera.position;
      this.$el.dataset.eye = [x, y, z].map((part) => part.toFixed(3)).join(" ");
      this.$el.dataset.calls = this.renderer.info.render.calls;
    },

    // A machine that cannot keep up draws fewer pixels rather than fewer pictures.
    steady(now) {
      if (this.before === undefined) return;
      this.pace = 0.9 * (this.pace ?? 16) + 0.1 * (now - this.before);
      if (this.pace > 26 && this.ratio > 0.5) {
        this.ratio = Math.max(0.5, this.ratio * 0.8);
        this.pace = 16;
        this.resize();
      }
    },

    focusView() {
      this.$refs.canvas?.focus();
    },
  },
};

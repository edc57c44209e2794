// What stands in the world, as few draw calls as there are materials: every part is an instance in a batch of its material, culled
// by itself. A change touches only the instances of what changed.
import { THREE } from "nicegui-scene";

const GROW = 1.6;
const POP = 320; // ms in which a new thing comes up
const GLIDE = 380; // ms in which a moved thing goes to its new place

class Batch {
  constructor(material, casts) {
    this.room = { instances: 64, vertices: 8192, indices: 16384 };
    this.mesh = new THREE.BatchedMesh(this.room.instances, this.room.vertices, this.room.indices, material);
    this.mesh.castShadow = casts && !material.transparent;
    this.mesh.receiveShadow = true;
    this.mesh.sortObjects = material.transparent;
    this.mesh.frustumCulled = false; // as a whole; its parts are
    this.geometries = new Map(); // fingerprint → {id, users}
    this.owners = new Map(); // instance → entity
  }

  add(owner, geometry, print, colour) {
    let known = this.geometries.get(print);
    if (known === undefined) {
      known = { id: this.reserve(geometry), users: 0 };
      this.geometries.set(print, known);
    }
    if (this.owners.size >= this.room.instances) {
      this.room.instances = Math.ceil(this.room.instances * GROW);
      this.mesh.setInstanceCount(this.room.instances);
    }
    known.users += 1;
    const instance = this.mesh.addInstance(known.id);
    this.mesh.setColorAt(instance, colour);
    this.owners.set(instance, owner);
    return instance;
  }

  reserve(geometry) {
    const vertices = geometry.attributes.position.count;
    const indices = geometry.index.count;
    if (this.mesh.unusedVertexCount < vertices || this.mesh.unusedIndexCount < indices) {
      this.mesh.optimize(); // what was taken out leaves holes
    }
    if (this.mesh.unusedVertexCount < vertices || this.mesh.unusedIndexCount < indices) {
      this.room.vertices = Math.ceil(Math.max(this.room.vertices * GROW, this.room.vertices + vertices));
      this.room.indices = Math.ceil(Math.max(this.room.indices * GROW, this.room.indices + indices));
      this.mesh.setGeometrySize(this.room.vertices, this.room.indices);
    }
    return this.mesh.addGeometry(geometry);
  }

  remove(instance, print) {
    this.mesh.deleteInstance(instance);
    this.owners.delete(instance);
    const known = this.geometries.get(print);
    known.users -= 1;
    if (known.users === 0) {
      this.mesh.deleteGeometry(known.id);
      this.geometries.delete(print);
    }
  }
}

export class Meshes {
  constructor(scene) {
    this.scene = scene;
    this.batches = new Map(); // material's key → Batch
    this.entities = new Map(); // id → {thing, root, parts, box, motion}
    this.moving = new Set();
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.matrix = new THREE.Matrix4();
  }

  // Takes the nodes directly below the file's scene in; each is an entity, by its name. One that is there already is replaced.
  take(gltf, now, quiet) {
    gltf.scene.updateMatrixWorld(true);
    for (const node of [...gltf.scene.children]) {
      const id = node.userData.name ?? node.name; // the loader takes dots out of names, and keeps the name so
      const before = this.entities.get(id);
      if (before !== undefined) this.drop(id);
      const thing = node.userData.role === "object";
      const entity = { id, thing, parts: [], box: new THREE.Box3(), motion: null, hidden: false, position: node.position.clone(),
        turn: node.quaternion.clone(), scale: node.scale.clone(), extras: node.userData };
      const inverse = node.matrixWorld.clone().invert();
      node.traverse((child) => {
        if (!child.isMesh) return;
        const local = inverse.clone().multiply(child.matrixWorld);
        const geometry = plain(child.geometry);
        geometry.computeBoundingBox();
        entity.box.union(geometry.boundingBox.clone().applyMatrix4(local));
        const batch = this.batch(child.material, !SHELL.includes(node.userData.role));
        const print = fingerprint(geometry);
        const colour = child.material.color.clone();
        entity.parts.push({ batch, print, local, colour, instance: batch.add(entity, geometry, print, colour) });
      });
      if (node.userData.role === "floor" && entity.parts.length > 0) this.underlay(entity);
      this.entities.set(entity.id, entity);
      if (before !== undefined) this.start(entity, before.position, before.turn, 1, now, GLIDE);
      else if (!quiet && thing) this.start(entity, entity.position, entity.turn, 0.01, now, POP);
      this.place(entity, now);
    }
  }

  // A floor of many planks lets light through its seams: under it lies one plane of its colour.
  underlay(entity) {
    const { batch, colour } = entity.parts[0];
    const size = entity.box.getSize(new THREE.Vector3());
    const geometry = plain(new THREE.PlaneGeometry(size.x, size.z).rotateX(-Math.PI / 2));
    const print = fingerprint(geometry);
    const local = new THREE.Matrix4().setPosition(entity.box.getCenter(new THREE.Vector3()).setY(entity.box.min.y - 0.004));
    entity.parts.push({ batch, print, local, colour, instance: batch.add(entity, geometry, print, colour) });
  }

  batch(material, casts) {
    const key = [casts, material.roughness, material.metalness, material.opacity, material.side, material.map?.uuid ?? "",
      material.emissive?.getHex() ?? 0].map(String).join("|");
    let batch = this.batches.get(key);
    if (batch === undefined) {
      const own = material.clone();
      own.color.set("#fff"); // the colour is the instance's
      own.transparent = material.opacity < 1;
      own.depthWrite = material.opacity >= 1;
      batch = new Batch(own, casts);
      this.batches.set(key, batch);
      this.scene.add(batch.mesh);
    }
    return batch;
  }

  drop(id) {
    const entity = this.entities.get(id);
    if (entity === undefined) return;
    for (const part of entity.parts) part.batch.remove(part.instance, part.print);
    this.entities.delete(id);
    this.moving.delete(entity);
  }

  move(id, [x, y, z, turn], now) {
    const entity = this.entities.get(id);
    if (entity === undefined) return;
    const [position, quaternion] = [entity.position.clone(), entity.turn.clone()];
    entity.position.set(x, y, z);
    entity.turn.setFromAxisAngle(UP, turn);
    this.start(entity, position, quaternion, 1, now, GLIDE);
    this.place(entity, now);
  }

  start(entity, position, turn, size, now, length) {
    if (this.still) return;
    entity.motion = { position: position.clone(), turn: turn.clone(), size, now, length };
    this.moving.add(entity);
  }

  place(entity, now) {
    const motion = entity.motion;
    let [position, turn, size] = [entity.position, entity.turn, 1];
    if (motion !== null) {
      const share = Math.min(Math.max((now - motion.now) / motion.length, 0), 1);
      const eased = 1 - (1 - share) ** 3;
      position = motion.position.clone().lerp(position, eased);
      turn = motion.turn.clone().slerp(turn, eased);
      size = motion.size + (1 - motion.size) * eased;
      if (share >= 1) {
        entity.motion = null;
        this.moving.delete(entity);
      }
    }
    const root = new THREE.Matrix4().compose(position, turn, entity.scale.clone().multiplyScalar(size));
    entity.root = root;
    for (const part of entity.parts) {
      part.batch.mesh.setMatrixAt(part.instance, this.matrix.multiplyMatrices(root, part.local));
    }
  }

  // Returns whether anything still moves.
  step(now) {
    for (const entity of [...this.moving]) this.place(entity, now);
    return this.moving.size > 0;
  }

  show(entity, visible) {
    if (entity.hidden !== visible) return;
    entity.hidden = !visible;
    for (const part of entity.parts) part.batch.mesh.setVisibleAt(part.instance, visible);
  }

  tint(id, accent, share) {
    const entity = this.entities.get(id);
    if (entity === undefined) return;
    for (const part of entity.parts) part.batch.mesh.setColorAt(part.instance, part.colour.clone().lerp(accent, share));
  }

  // The entity nearest along the ray, and how far it is.
  pick(raycaster) {
    const meshes = [...this.batches.values()].map((batch) => batch.mesh);
    for (const hit of raycaster.intersectObjects(meshes, false)) {
      const batch = [...this.batches.values()].find((one) => one.mesh === hit.object);
      const entity = batch.owners.get(hit.batchId);
      if (entity !== undefined && !entity.hidden) return { entity, distance: hit.distance };
    }
    return null;
  }

  bounds() {
    const all = new THREE.Box3();
    for (const entity of this.entities.values()) if (!entity.box.isEmpty()) all.union(entity.box.clone().applyMatrix4(entity.root));
    return all;
  }

  // Takes out everything, or everything but the things.
  clear(things = true) {
    for (const entity of [...this.entities.values()]) if (things || !entity.thing) this.drop(entity.id);
  }

  dispose() {
    for (const batch of this.batches.values()) {
      batch.mesh.material.dispose();
      batch.mesh.dispose();
    }
  }
}

const SHELL = ["floor", "wall", "ceiling", "ground"]; // no shadows of these: the sun is to shine into rooms that are looked into
const UP = new THREE.Vector3(0, 1, 0);

// A batch wants the same attributes of all: positions, normals, an index.
function plain(geometry) {
  const result = new THREE.BufferGeometry();
  result.setAttribute("position", geometry.attributes.position);
  if (geometry.attributes.normal === undefined) geometry.computeVertexNormals();
  result.setAttribute("normal", geometry.attributes.normal);
  const count = geometry.attributes.position.count;
  result.setIndex(geometry.index ?? new THREE.BufferAttribute(Uint32Array.from({ length: count }, (_, i) => i), 1));
  return result;
}

// Equal shapes are kept once, though every file brings its own copy (FNV-1a over positions and index).
function fingerprint(geometry) {
  let hash = 0x811c9dc5;
  for (const array of [geometry.attributes.position.array, geometry.index.array]) {
    const words = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let at = 0; at < words.length; at++) hash = Math.imul(hash ^ words[at], 0x01000193);
  }
  return `${geometry.attributes.position.count}/${geometry.index.count}/${hash >>> 0}`;
}

// The 3D view: one mesh, turned by mouse, touch or keys. It draws only when something changes, and sleeps otherwise.

import * as three from "three";
import { OrbitControls } from "./vendor/three/controls/OrbitControls.js";
import { GLTFLoader } from "./vendor/three/loaders/GLTFLoader.js";

const FIELD_OF_VIEW = 32; // degrees, upwards
const FROM = new three.Vector3(0.55, 0.38, 1); // where the first look comes from; glTF's front is +Z, its up is +Y
const MARGIN = 1.22;
const MOST_FITTED = 20_000; // vertices
const TURN = Math.PI / 18; // one press of an arrow key
const ZOOM = 1.15;
const CLAY = 0xe2d8c8;

export class Viewer {
  // Throws where the browser has no WebGL.
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new three.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new three.Scene();
    this.camera = new three.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
    this.mesh = null;
    this.turned = false; // has the user chosen a view of this mesh?
    this.frame = 0;
    this.materials = {
      clay: new three.MeshStandardMaterial({ color: CLAY, roughness: 0.75, side: three.DoubleSide, ...behindLines }),
      normals: new three.MeshNormalMaterial({ side: three.DoubleSide, ...behindLines }),
    };
    this.lines = new three.MeshBasicMaterial({ color: 0x1d2a2f, wireframe: true, transparent: true, opacity: 0.45 });
    this.shading = "clay";
    this.wireframe = false;
    this.light();
    this.listen();
  }

  // The lights travel with the camera: no side of the mesh is ever in the dark.
  light() {
    this.scene.add(new three.HemisphereLight(0xffffff, 0x9a9086, 1.3), this.camera);
    for (const [x, y, z, strength, color] of [
      [-0.6, 0.9, 0.7, 2.1, 0xfff6e8],
      [1, 0.1, 0.3, 0.7, 0xdfe9ff],
      [0.2, 0.7, -1, 0.9, 0xffffff],
    ]) {
      const lamp = new three.DirectionalLight(color, strength);
      lamp.position.set(x, y, z);
      this.camera.add(lamp, lamp.target);
    }
  }

  listen() {
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.enableDamping = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.controls.enablePan = true;
    this.controls.addEventListener("start", () => (this.turned = true));
    this.controls.addEventListener("change", () => this.draw());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  // Shows the mesh of a GLB file. The view stays as it is if the user has turned it and `keepView` is set.
  async load(bytes, { keepView = false } = {}) {
    const { scene } = await new GLTFLoader().parseAsync(bytes, "");
    const group = new three.Group();
    scene.updateMatrixWorld(true);
    scene.traverse((node) => {
      if (!node.isMesh) return;
      const geometry = node.geometry.applyMatrix4(node.matrixWorld);
      if (!geometry.getAttribute("normal")) geometry.computeVertexNormals();
      const lines = new three.Mesh(geometry, this.lines);
      lines.name = "lines";
      group.add(new three.Mesh(geometry, this.materials[this.shading]), lines);
    });
    this.clear({ keepView });
    this.mesh = group;
    this.scene.add(group);
    this.applyShading();
    if (!(keepView && this.turned)) this.reset();
    this.resize();
  }

  clear({ keepView = false } = {}) {
    if (this.mesh) {
      this.scene.remove(this.mesh);
      this.mesh.children.forEach((part) => part.geometry.dispose());
      this.mesh = null;
    }
    if (!keepView) this.turned = false;
    this.draw();
  }

  setShading(shading) {
    this.shading = shading;
    this.applyShading();
  }

  setWireframe(on) {
    this.wireframe = on;
    this.applyShading();
  }

  applyShading() {
    for (const part of this.mesh?.children ?? []) {
      if (part.name === "lines") part.visible = this.wireframe;
      else part.material = this.materials[this.shading];
    }
    this.draw();
  }

  // The whole mesh, from the front and a little above.
  reset() {
    if (!this.mesh) return;
    const box = new three.Box3().setFromObject(this.mesh);
    const center = box.getCenter(new three.Vector3());
    const radius = box.getSize(new three.Vector3()).length() / 2 || 1;
    const distance = MARGIN * fittingDistance(this.mesh, center, this.camera.aspect);
    this.turned = false;
    this.controls.target.copy(center);
    this.controls.minDistance = radius * 0.2;
    this.controls.maxDistance = distance * 5;
    this.camera.near = radius / 100;
    this.camera.far = distance * 5 + radius * 2;
    this.camera.position.copy(FROM).setLength(distance).add(center);
    this.camera.updateProjectionMatrix();
    this.controls.update();
    this.draw();
  }

  turn(across, up) {
    const { target } = this.controls;
    const place = new three.Spherical().setFromVector3(this.camera.position.clone().sub(target));
    place.theta += across;
    place.phi += up;
    place.makeSafe(); // not over the poles
    this.camera.position.setFromSpherical(place).add(target);
    this.moved();
  }

  zoom(factor) {
    const { target, minDistance, maxDistance } = this.controls;
    const away = this.camera.position.clone().sub(target);
    away.setLength(three.MathUtils.clamp(away.length() * factor, minDistance, maxDistance));
    this.camera.position.copy(away).add(target);
    this.moved();
  }

  moved() {
    this.turned = true;
    this.controls.update();
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
    const action = {
      ArrowLeft: () => this.turn(-TURN, 0),
      ArrowRight: () => this.turn(TURN, 0),
      ArrowUp: () => this.turn(0, -TURN),
      ArrowDown: () => this.turn(0, TURN),
      "+": () => this.zoom(1 / ZOOM),
      "=": () => this.zoom(1 / ZOOM),
      "-": () => this.zoom(ZOOM),
      _: () => this.zoom(ZOOM),
      Home: () => this.reset(),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false); // false: the style sheet sizes the canvas
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    if (this.mesh && !this.turned) this.reset();
    this.drawNow(); // at once: a resized canvas is empty until it is drawn
  }

  // Draws once, before the next frame is shown. While a turn glides to its end, update() says "change" and calls it again.
  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }
}

// From how far away, looking along FROM, every vertex is in the picture. Of large meshes a part of them tells enough.
function fittingDistance(mesh, center, aspect) {
  const back = FROM.clone().normalize();
  const right = new three.Vector3(0, 1, 0).cross(back).normalize();
  const up = back.clone().cross(right);
  const slope = Math.tan(three.MathUtils.degToRad(FIELD_OF_VIEW) / 2);
  const point = new three.Vector3();
  let distance = 0;
  for (const { geometry } of mesh.children) {
    const position = geometry.getAttribute("position");
    for (let at = 0; at < position.count; at += Math.ceil(position.count / MOST_FITTED)) {
      point.fromBufferAttribute(position, at).sub(center);
      const needed = Math.max(Math.abs(point.dot(right)) / (slope * aspect), Math.abs(point.dot(up)) / slope);
      distance = Math.max(distance, needed + point.dot(back));
    }
  }
  return distance;
}

// Lines on the surface lie in front of it.
const behindLines = { polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1 };

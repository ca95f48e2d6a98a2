// Draws shapes in panes: of the offline pages, and of the workbench.  Returns the function that opens
// a section with its numbers.
//
// One WebGL canvas draws every pane in turn and is copied from: browsers allow few contexts.  Places
// are made relative to the middle and the radius of what is to be seen, y is up.  Splats follow Kerbl
// et al. 2023: projected covariances, blended from back to front.
() => {
  const FOV = (35 * Math.PI) / 180;
  const FIT = 1.0 / Math.sin(FOV / 2);
  const board = document.createElement("canvas");
  const gl = board.getContext("webgl2", { antialias: true, premultipliedAlpha: true });

  const MESH = [
    `#version 300 es
    in vec3 place; in vec3 normal; in vec3 color;
    uniform mat4 all; uniform mat3 turn; uniform float size;
    out vec3 n; out vec3 c;
    void main() {
      gl_Position = all * vec4(place, 1.0); gl_PointSize = max(1.5, size / gl_Position.w);
      n = turn * normal; c = color;
    }`,
    `#version 300 es
    precision highp float; in vec3 n; in vec3 c; uniform float lit; uniform vec3 ink; out vec4 o;
    void main() {
      vec3 m = length(n) > 0.0 ? normalize(n) : vec3(0.0, 0.0, 1.0);
      float key = max(dot(m, normalize(vec3(-0.4, 0.7, 0.6))), 0.0);
      float back = max(dot(-m, normalize(vec3(-0.4, 0.7, 0.6))), 0.0);
      float shade = 0.42 + 0.5 * max(key, 0.6 * back) + 0.22 * abs(m.z);
      vec3 base = ink.x < 0.0 ? c : ink;
      o = vec4(mix(base, min(base * shade, 1.0), lit), 1.0);
    }`,
  ];
  const SPLAT = [
    `#version 300 es
    precision highp float; precision highp int;
    in vec2 corner; in uint which;
    uniform highp sampler2D table; uniform mat4 view; uniform vec2 focal; uniform vec2 half_size;
    uniform mat4 lens;
    out vec2 at; out vec4 tint;
    void main() {
      int row = int(which) / 512, column = (int(which) % 512) * 3;
      vec4 a = texelFetch(table, ivec2(column, row), 0);
      vec4 b = texelFetch(table, ivec2(column + 1, row), 0);
      vec4 d = texelFetch(table, ivec2(column + 2, row), 0);
      vec4 eye = view * vec4(a.xyz, 1.0);
      gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
      if (eye.z > -0.02) return;
      mat3 sigma = mat3(b.x, b.y, b.z, b.y, b.w, d.x, b.z, d.x, d.y);
      float z = -eye.z;
      vec2 limit = 1.3 * half_size / focal;
      vec2 slope = clamp(eye.xy / z, -limit, limit);
      // rows of the Jacobian of (focal x / z, focal y / z)
      vec3 jx = vec3(focal.x / z, 0.0, focal.x * slope.x / z);
      vec3 jy = vec3(0.0, focal.y / z, focal.y * slope.y / z);
      mat3 turn = mat3(view);
      vec3 tx = jx * turn, ty = jy * turn;
      vec3 sx = sigma * tx, sy = sigma * ty;
      float p = dot(tx, sx) + 0.3, q = dot(tx, sy), r = dot(ty, sy) + 0.3;
      float mean = 0.5 * (p + r), gap = sqrt(max(0.25 * (p - r) * (p - r) + q * q, 1e-12));
      float l1 = mean + gap, l2 = max(mean - gap, 0.05);
      vec2 long_axis = abs(q) > 1e-9 ? normalize(vec2(q, l1 - p)) : (p >= r ? vec2(1, 0) : vec2(0, 1));
      vec2 reach = min(sqrt(vec2(l1, l2)), vec2(1024.0));
      vec2 move = 3.0 * (corner.x * reach.x * long_axis
        + corner.y * reach.y * vec2(-long_axis.y, long_axis.x));
      vec4 middle = lens * eye;
      gl_Position = vec4(middle.xy / middle.w + move / half_size, middle.z / middle.w, 1.0);
      at = 3.0 * corner;
      float packed = d.z;
      float blue = floor(packed / 65536.0), green = floor((packed - blue * 65536.0) / 256.0);
      tint = vec4(vec3(packed - blue * 65536.0 - green * 256.0, green, blue) / 255.0, a.w);
    }`,
    `#version 300 es
    precision highp float; in vec2 at; in vec4 tint; out vec4 o;
    void main() {
      float alpha = min(0.99, tint.a * exp(-0.5 * dot(at, at)));
      if (alpha < 0.004) discard;
      o = vec4(tint.rgb * alpha, alpha);
    }`,
  ];

  function program([vertex, fragment]) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    const place = (name) => gl.getUniformLocation(made, name);
    return { made, place, input: (name) => gl.getAttribLocation(made, name) };
  }

  const programs = gl && { mesh: program(MESH), splat: program(SPLAT) };

  // Colour maps of numbers, low to high; what is unknown is grey.
  const MAPS = {
    "doubt to trust": [[178, 64, 60], [226, 136, 84], [236, 214, 154], [128, 186, 172], [38, 118, 130]],
    heat: [[246, 243, 230], [252, 210, 130], [243, 136, 72], [203, 60, 80], [120, 25, 100], [35, 10, 60]],
    viridis: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
    greys: [[25, 25, 25], [235, 235, 235]],
  };
  const UNKNOWN = [150, 160, 170];
  const GREY = [196, 201, 208];

  function shade(map, share, out, at) {
    const stops = MAPS[map];
    const t = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(t), stops.length - 2);
    for (let k = 0; k < 3; k++) out[at + k] = stops[i][k] + (t - i) * (stops[i + 1][k] - stops[i][k]);
  }

  // Numbers of a model, from base64.
  function read(header, base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const { count, low, size, center, radius } = header;
    const raw = new Uint16Array(bytes.buffer, header.places, 3 * count);
    const places = new Float32Array(3 * count);
    for (let i = 0; i < 3 * count; i++) {
      const k = i % 3;
      places[i] = (low[k] + (raw[i] / 65535) * size[k] - center[k]) / radius;
    }
    const model = { header, count, places, bytes, buffers: new Map() };
    if (header.corners !== undefined) {
      model.faces = new Uint32Array(bytes.buffer, header.corners, 3 * header.faces);
      model.normals = normals(places, model.faces);
    }
    if (header.matches !== undefined) model.matches = new Int32Array(bytes.buffer, header.matches, count);
    model.scalars = {};
    for (const [name, { at, low: from, high: to }] of Object.entries(header.scalars ?? {})) {
      // 65535 stands for what is unknown
      const steps = new Uint16Array(bytes.buffer, at, count);
      model.scalars[name] = Float32Array.from(steps, (n) => (n === 65535 ? NaN : from + (n / 65534) * (to - from)));
    }
    return model;
  }

  function normals(places, faces) {
    const sums = new Float32Array(places.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const u = [0, 1, 2].map((k) => places[b + k] - places[a + k]);
      const v = [0, 1, 2].map((k) => places[c + k] - places[a + k]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const at of [a, b, c]) for (let k = 0; k < 3; k++) sums[at + k] += n[k];
    }
    return sums;
  }

  function buffer(model, name, make, target = gl.ARRAY_BUFFER) {
    if (!model.buffers.has(name)) {
      const made = gl.createBuffer();
      gl.bindBuffer(target, made);
      gl.bufferData(target, make(), gl.STATIC_DRAW);
      model.buffers.set(name, made);
    }
    gl.bindBuffer(target, model.buffers.get(name));
  }

  function colors(model, set, scale) {
    const values = model.scalars[set];
    if (!values && scale) {
      // numbers of another shape are shown: this one stands back
      const plain = new Uint8Array(3 * model.count);
      for (let i = 0; i < plain.length; i++) plain[i] = GREY[i % 3];
      return plain;
    }
    if (values) {
      const shades = new Uint8Array(3 * model.count);
      const span = Math.max(scale.high - scale.low, 1e-12);
      for (let i = 0; i < model.count; i++) {
        if (Number.isNaN(values[i])) shades.set(UNKNOWN, 3 * i);
        else shade(scale.map, (values[i] - scale.low) / span, shades, 3 * i);
      }
      return shades;
    }
    const start = model.header.colors[set] ?? Object.values(model.header.colors)[0];
    return model.bytes.subarray(start, start + 3 * model.count);
  }

  function edges(faces) {
    const seen = new Set();
    const pairs = [];
    for (let f = 0; f < faces.length; f += 3) {
      for (let k = 0; k < 3; k++) {
        const a = faces[f + k], b = faces[f + ((k + 1) % 3)];
        const key = Math.min(a, b) * 4294967296 + Math.max(a, b);
        if (seen.has(key)) continue;
        seen.add(key);
        pairs.push(a, b);
      }
    }
    return new Uint32Array(pairs);
  }

  // The table of splats: place and opacity, covariance, colour; 512 splats in a row.
  function table(model, set) {
    const { splats, radius } = model.header;
    const at = (start, kind, n) => new kind(model.bytes.buffer, start, n * model.count);
    const scales = at(splats.scales, Uint8Array, 3), turns = at(splats.turns, Int8Array, 4);
    const opacities = at(splats.opacities, Uint8Array, 1), shades = colors(model, set);
    const rows = Math.max(1, Math.ceil(model.count / 512));
    const data = new Float32Array(rows * 512 * 12);
    for (let i = 0; i < model.count; i++) {
      const s = [0, 1, 2].map((k) => Math.exp(splats.low + (scales[3 * i + k] / 255) * splats.span) / radius);
      let [w, x, y, z] = turns.subarray(4 * i, 4 * i + 4);
      const norm = Math.hypot(w, x, y, z) || 1;
      [w, x, y, z] = [w / norm, x / norm, y / norm, z / norm];
      const m = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
      ];
      const cov = (a, b) => s.reduce((sum, t, k) => sum + m[a][k] * t * t * m[b][k], 0);
      data.set(model.places.subarray(3 * i, 3 * i + 3), 12 * i);
      const color = shades[3 * i] + 256 * shades[3 * i + 1] + 65536 * shades[3 * i + 2];
      const rest = [opacities[i] / 255, cov(0, 0), cov(0, 1), cov(0, 2), cov(1, 1), cov(1, 2), cov(2, 2), color];
      data.set(rest, 12 * i + 3);
    }
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 1536, rows, 0, gl.RGBA, gl.FLOAT, data);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    }
    return texture;
  }

  // Orders splats from back to front by counting.
  function order(model, view) {
    const { places, count } = model;
    const depth = new Float32Array(count);
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i < count; i++) {
      const d = view[2] * places[3 * i] + view[6] * places[3 * i + 1] + view[10] * places[3 * i + 2];
      depth[i] = d;
      if (d < low) low = d;
      if (d > high) high = d;
    }
    const steps = 65535 / Math.max(high - low, 1e-9);
    const starts = new Uint32Array(65537);
    for (let i = 0; i < count; i++) starts[1 + ((depth[i] - low) * steps | 0)]++;
    for (let i = 0; i < 65536; i++) starts[i + 1] += starts[i];
    const sorted = new Uint32Array(count);
    for (let i = 0; i < count; i++) sorted[starts[(depth[i] - low) * steps | 0]++] = i;
    return sorted;
  }

  // Matrices are columns one after another.
  const times = (a, b) => {
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) {
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
    }
    return out;
  };

  function axes({ azimuth, elevation }) {
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    return { right: [ca, 0, -sa], up: [-se * sa, ce, -se * ca], back: [ce * sa, se, ce * ca] };
  }

  function matrices(camera, width, height) {
    const { right, up, back } = axes(camera);
    const away = camera.distance * Math.max(1, height / width);
    const eye = [0, 1, 2].map((k) => camera.target[k] + away * back[k]);
    const dot = (v) => -(v[0] * eye[0] + v[1] * eye[1] + v[2] * eye[2]);
    const view = new Float32Array([
      right[0], up[0], back[0], 0, right[1], up[1], back[1], 0,
      right[2], up[2], back[2], 0, dot(right), dot(up), dot(back), 1,
    ]);
    const f = 1 / Math.tan(FOV / 2);
    const near = Math.max(0.01, 0.06 * away), far = away + 30;
    const lens = new Float32Array([
      (f * height) / width, 0, 0, 0, 0, f, 0, 0,
      0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0,
    ]);
    return { view, lens, all: times(lens, view), focal: (f * height) / 2 };
  }

  function drawMesh(model, pane, m) {
    const { group } = pane;
    const { made, place, input } = programs.mesh;
    gl.useProgram(made);
    gl.uniformMatrix4fv(place("all"), false, m.all);
    const v = m.view;
    gl.uniformMatrix3fv(place("turn"), false, [v[0], v[1], v[2], v[4], v[5], v[6], v[8], v[9], v[10]]);
    gl.uniform1f(place("size"), (pane.canvas.height / 900) * 22);
    const bind = (name, at, make, kind, normalise) => {
      const slot = input(name);
      if (slot < 0) return;
      buffer(model, at, make);
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, kind, normalise, 0, 0);
    };
    const { set, scale } = group;
    bind("place", "places", () => model.places, gl.FLOAT, false);
    bind("normal", "normals", () => model.normals ?? new Float32Array(3 * model.count), gl.FLOAT, false);
    const tone = scale ? `${set} ${scale.map} ${scale.low} ${scale.high}` : set;
    if (model.tone !== tone) {
      gl.deleteBuffer(model.buffers.get("colors") ?? null);
      model.buffers.delete("colors");
      model.tone = tone;
    }
    bind("color", "colors", () => colors(model, set, scale), gl.UNSIGNED_BYTE, true);
    const look = model.faces ? group.look : "points";
    const ink = (r, g, b, lit) => {
      gl.uniform3f(place("ink"), r, g, b);
      gl.uniform1f(place("lit"), lit);
    };
    ink(-1, 0, 0, model.faces ? 1 : 0);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    if (look === "points") return gl.drawArrays(gl.POINTS, 0, model.count);
    gl.enable(gl.POLYGON_OFFSET_FILL);
    gl.polygonOffset(1.5, 6);
    buffer(model, "faces", () => model.faces, gl.ELEMENT_ARRAY_BUFFER);
    gl.drawElements(gl.TRIANGLES, model.faces.length, gl.UNSIGNED_INT, 0);
    if (look !== "wireframe") return;
    model.edges ??= edges(model.faces);
    buffer(model, "edges", () => model.edges, gl.ELEMENT_ARRAY_BUFFER);
    // Some drivers draw lines as polygons, and would push them behind the faces.
    gl.disable(gl.POLYGON_OFFSET_FILL);
    ink(0.12, 0.14, 0.17, 0);
    gl.drawElements(gl.LINES, model.edges.length, gl.UNSIGNED_INT, 0);
  }

  function drawSplats(model, pane, m) {
    const { made, place, input } = programs.splat;
    gl.useProgram(made);
    model.texture ??= table(model, pane.group.set);
    gl.bindTexture(gl.TEXTURE_2D, model.texture);
    gl.uniformMatrix4fv(place("view"), false, m.view);
    gl.uniformMatrix4fv(place("lens"), false, m.lens);
    gl.uniform2f(place("focal"), m.focal, m.focal);
    gl.uniform2f(place("half_size"), pane.canvas.width / 2, pane.canvas.height / 2);
    buffer(model, "corners", () => new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]));
    gl.enableVertexAttribArray(input("corner"));
    gl.vertexAttribPointer(input("corner"), 2, gl.FLOAT, false, 0, 0);
    model.order ??= gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, model.order);
    gl.bufferData(gl.ARRAY_BUFFER, order(model, m.view), gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(input("which"));
    gl.vertexAttribIPointer(input("which"), 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(input("which"), 1);
    gl.disable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, model.count);
    gl.vertexAttribDivisor(input("which"), 0);
  }

  // Draws one model on the board; returns its matrices.
  function paint(pane, model, width, height) {
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.bindVertexArray((pane.array ??= gl.createVertexArray()));
    const m = matrices(pane.camera, width, height);
    (model.header.splats ? drawSplats : drawMesh)(model, pane, m);
    return m;
  }

  function draw(pane) {
    const { canvas, model, group } = pane;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (!width || !height) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    if (board.width < width) board.width = width;
    if (board.height < height) board.height = height;
    const flat = canvas.getContext("2d");
    flat.clearRect(0, 0, width, height);
    const copy = (from, to) => {
      if (to <= from) return;
      flat.drawImage(board, from, board.height - height, to - from, height, from, 0, to - from, height);
    };
    pane.matrices = paint(pane, model, width, height);
    const cut = group.sliding && pane === group.panes[0] ? Math.round(group.split * width) : width;
    copy(0, cut);
    if (cut < width) {
      paint(pane, group.panes[1].model, width, height);
      copy(cut, width);
      flat.fillStyle = "#0f766e";
      flat.fillRect(cut - scale, 0, 2 * scale, height);
    }
    if (pane.marked !== undefined) mark(pane, pane.marked, "", flat, scale);
    for (const [vertex, number] of group.landmarksOf(pane)) mark(pane, vertex, number, flat, scale);
  }

  function project({ matrices: { all }, canvas, model }, i) {
    const [x, y, z] = model.places.subarray(3 * i, 3 * i + 3);
    const at = (r) => all[r] * x + all[4 + r] * y + all[8 + r] * z + all[12 + r];
    const w = at(3);
    return [(at(0) / w + 1) * canvas.width / 2, (1 - at(1) / w) * canvas.height / 2, at(2) / w];
  }

  function mark(pane, vertex, number, flat, scale) {
    const [x, y] = project(pane, vertex);
    if (number) {
      flat.font = `bold ${12 * scale}px system-ui, sans-serif`;
      flat.lineWidth = 3 * scale;
      flat.strokeStyle = "#fff";
      flat.strokeText(number, x + 8 * scale, y - 6 * scale);
      flat.fillStyle = "#a3114f";
      flat.fillText(number, x + 8 * scale, y - 6 * scale);
    }
    flat.beginPath();
    flat.arc(x, y, (number ? 4 : 6) * scale, 0, 2 * Math.PI);
    flat.lineWidth = 3 * scale;
    flat.strokeStyle = "#fff";
    flat.stroke();
    flat.lineWidth = 1.5 * scale;
    flat.strokeStyle = "#111";
    flat.stroke();
  }

  const waiting = new Set();
  function redraw(pane) {
    if (!waiting.size) {
      requestAnimationFrame(() => {
        const panes = [...waiting];
        waiting.clear();
        panes.forEach(draw);
      });
    }
    waiting.add(pane);
  }

  const fresh = () => ({ azimuth: 0.6, elevation: 0.35, distance: FIT, target: [0, 0, 0] });
  const copied = (camera) => ({ ...camera, target: [...camera.target] });
  // How a section was last looked at, by the place on the page and what it shows.
  const kept = new Map();

  const FILM_FRAMES = 72;
  const filmType = () => ["video/webm;codecs=vp9", "video/webm", "video/mp4"].find(
    (type) => window.MediaRecorder?.isTypeSupported(type),
  );

  function offer(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  class Group {
    constructor(section, content, numbers) {
      const before = kept.get(section.id);
      const same = before && before.key === section.dataset.key ? before : null;
      Object.assign(this, { section, content, linked: true, look: "solid", turning: false, marking: false });
      Object.assign(this, { sliding: false, split: 0.5, views: same?.views ?? [], key: section.dataset.key });
      this.models = content.models.map((header) => read(header, numbers(header.id)));
      this.said = section.querySelector(".said");
      this.hint = this.said.textContent;
      this.panes = [...section.querySelectorAll("canvas")].map((canvas, i) => {
        return { canvas, group: this, model: this.models[i] };
      });
      this.marks = JSON.parse(section.dataset.marks ?? "[]").map(([a, b]) => [a, b]);
      this.linked = same?.linked ?? true;
      this.look = same?.look ?? "solid";
      const one = fresh();
      this.panes.forEach((pane, i) => (pane.camera = same?.cameras[i] ?? (this.linked ? one : fresh())));
      this.show(content.sets.includes(same?.set) && same.sets === content.sets.join() ? same.set : content.sets[0]);
      for (const pane of this.panes) this.listen(pane);
      this.tools(content);
      this.captions();
      this.keep();
      const seen = new ResizeObserver(() => this.panes.forEach(redraw));
      for (const { canvas } of this.panes) seen.observe(canvas);
    }

    keep() {
      if (!this.section.id) return;
      const cameras = this.panes.map((pane) => pane.camera);
      const { key, linked, look, set, views } = this;
      kept.set(this.section.id, { key, cameras, linked, look, set, views, sets: this.content.sets.join() });
    }

    reset() {
      const one = fresh();
      for (const pane of this.panes) pane.camera = this.linked ? one : fresh();
      this.keep();
      this.panes.forEach(redraw);
    }

    // What changes one camera changes the linked ones: they are one object.
    moved(pane) {
      (this.linked ? this.panes : [pane]).forEach(redraw);
    }

    link(on) {
      this.linked = on;
      const first = this.panes[0].camera;
      for (const pane of this.panes) pane.camera = on ? first : copied(pane.camera);
      this.keep();
      this.panes.forEach(redraw);
    }

    // Colours, or numbers through a colour map.
    show(set) {
      this.set = set;
      const told = this.content.scalars?.[set];
      this.scale = told ? { map: told.map, low: told.from, high: told.to } : null;
      for (const model of this.models) model.texture = undefined;
    }

    element(name, attributes, parent, text = "") {
      const made = document.createElement(name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text) made.textContent = text;
      parent.append(made);
      return made;
    }

    choice(parent, name, values, chosen, now) {
      const label = this.element("label", {}, parent, name);
      const box = this.element("select", { "aria-label": name }, label);
      for (const value of values) box.append(new Option(value, value));
      box.value = now;
      box.addEventListener("change", () => {
        chosen(box.value);
        this.keep();
        this.panes.forEach(redraw);
      });
      return box;
    }

    tick(parent, name, on, act) {
      const label = this.element("label", {}, parent);
      const box = this.element("input", { type: "checkbox" }, label);
      box.checked = on;
      box.addEventListener("change", () => act(box.checked));
      label.append(name);
      return box;
    }

    button(parent, name, act, title = "") {
      const made = this.element("button", { type: "button", ...(title && { title }) }, parent, name);
      made.addEventListener("click", () => act(made));
      return made;
    }

    tools(content) {
      const bar = this.section.querySelector(".tools");
      bar.replaceChildren();
      if (content.sets.length > 1) {
        this.choice(bar, "Colours", content.sets, (set) => (this.show(set), this.legend()), this.set);
      }
      if (this.models.some((model) => model.faces)) {
        this.choice(bar, "Meshes", ["solid", "wireframe", "points"], (look) => (this.look = look), this.look);
      }
      if (this.panes.length > 1) this.tick(bar, "Link cameras", this.linked, (on) => this.link(on));
      if (this.panes.length > 1 && content.one_frame) {
        this.tick(bar, "Slider", false, (on) => this.slide(on));
      }
      if (this.section.dataset.landmarks !== undefined) {
        this.tick(bar, "Set landmarks", false, (on) => this.mark(on));
        this.undo = this.button(bar, "Remove the last", () => this.unmark());
        this.undo.hidden = true;
      }
      this.button(bar, "Reset view", () => this.reset());
      this.button(bar, "Turn", (made) => {
        this.turning = !this.turning;
        made.textContent = this.turning ? "Stop" : "Turn";
        made.setAttribute("aria-pressed", String(this.turning));
        if (this.turning) this.turn();
      });
      this.button(bar, "Keep view", () => this.keepView(), "Keep this view; its number brings it back");
      this.chips = this.element("span", { class: "views" }, bar);
      this.button(bar, "Picture", () => this.picture());
      if (filmType()) this.button(bar, "Film", (made) => this.film(made), "One turn as a film");
      this.views.forEach((_, i) => this.chip(i));
      this.slider = this.element("input", {
        type: "range", min: 0, max: 100, value: 50, class: "split", "aria-label": "How much is shown of the left one",
      }, this.section.querySelector(".panes").parentNode);
      this.section.querySelector(".panes").after(this.slider);
      this.slider.hidden = true;
      this.slider.addEventListener("input", () => {
        this.split = this.slider.value / 100;
        this.panes.forEach(redraw);
      });
      this.scaleBox = this.element("div", { class: "numbers" }, this.section);
      this.slider.after(this.scaleBox);
      this.legend();
    }

    // What each pane shows, where there are more models than panes.
    captions() {
      if (this.models.length <= this.panes.length) return;
      for (const [i, pane] of this.panes.entries()) {
        const place = pane.canvas.parentNode.querySelector("figcaption");
        place.replaceChildren();
        const titles = this.models.map(({ header }) => header.title);
        this.choice(place, "Shown", titles, (title) => (pane.model = this.models[titles.indexOf(title)]), titles[i]);
      }
    }

    slide(on) {
      this.sliding = on;
      this.link(true);
      this.section.classList.toggle("sliding", on);
      this.slider.hidden = !on;
      this.panes.forEach(redraw);
    }

    keepView() {
      if (this.views.length >= 9) this.views.shift();
      this.views.push(this.panes.map((pane) => copied(pane.camera)));
      this.keep();
      this.chips.replaceChildren();
      this.views.forEach((_, i) => this.chip(i));
    }

    chip(i) {
      this.button(this.chips, String(i + 1), () => {
        this.panes.forEach((pane, k) => Object.assign(pane.camera, copied(this.views[i][k])));
        this.panes.forEach(redraw);
      }, `Kept view ${i + 1}`);
    }

    // All panes beside each other on one canvas.
    sheet(made) {
      const panes = this.sliding ? this.panes.slice(0, 1) : this.panes;
      const [width, height] = [panes.reduce((sum, { canvas }) => sum + canvas.width, 0), panes[0].canvas.height];
      if (made.width !== width) made.width = width;
      if (made.height !== height) made.height = height;
      const flat = made.getContext("2d");
      flat.fillStyle = "#f4f6f8";
      flat.fillRect(0, 0, width, height);
      let x = 0;
      for (const { canvas } of panes) {
        flat.drawImage(canvas, x, 0);
        x += canvas.width;
      }
      return made;
    }

    picture() {
      this.panes.forEach(draw);
      this.sheet(document.createElement("canvas")).toBlob((blob) => offer(blob, "view.png"));
    }

    // One turn, drawn as fast as it can be, played at the same pace everywhere.
    async film(made) {
      if (made.disabled) return;
      made.disabled = true;
      this.turning = false;
      const sheet = this.sheet(document.createElement("canvas"));
      const stream = sheet.captureStream(0);
      const type = filmType();
      const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 6e6 });
      const parts = [];
      recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
      const ended = new Promise((done) => recorder.addEventListener("stop", done));
      recorder.start();
      for (let i = 0; i < FILM_FRAMES; i++) {
        for (const camera of new Set(this.panes.map((pane) => pane.camera))) {
          camera.azimuth += (2 * Math.PI) / FILM_FRAMES;
        }
        this.panes.forEach(draw);
        this.sheet(sheet);
        stream.getVideoTracks()[0].requestFrame();
        made.textContent = `Film ${Math.round((100 * i) / FILM_FRAMES)} %`;
        await new Promise((done) => setTimeout(done, 1000 / 24));
      }
      recorder.stop();
      await ended;
      made.textContent = "Film";
      made.disabled = false;
      offer(new Blob(parts, { type }), type.includes("mp4") ? "turn.mp4" : "turn.webm");
    }

    // The colour map of numbers, its two ends, and how many vertices have which.
    legend() {
      this.scaleBox.replaceChildren();
      const said = this.content.about?.[this.set] ?? "";
      if (said) this.element("p", { class: "dim" }, this.scaleBox, said);
      if (!this.scale) return;
      const told = this.content.scalars[this.set];
      const row = this.element("div", { class: "scale" }, this.scaleBox);
      this.choice(row, "Map", Object.keys(MAPS), (map) => ((this.scale.map = map), this.bars()), this.scale.map);
      const end = (name, which) => {
        const label = this.element("label", {}, row, name);
        const box = this.element("input", { type: "number", step: "any", "aria-label": name }, label);
        box.value = Number(this.scale[which].toPrecision(3));
        box.addEventListener("change", () => {
          if (box.value !== "" && Number.isFinite(Number(box.value))) this.scale[which] = Number(box.value);
          this.bars();
          this.panes.forEach(redraw);
        });
      };
      end("from", "low");
      end("to", "high");
      if (told.unit) row.append(told.unit);
      this.histogram = this.element("canvas", { class: "histogram", width: 640, height: 90 }, this.scaleBox);
      this.histogram.setAttribute("role", "img");
      this.bars();
    }

    bars() {
      const values = this.models.map((model) => model.scalars[this.set]).find(Boolean);
      const { low, high, map } = this.scale;
      const counts = new Array(32).fill(0);
      let known = 0;
      for (const value of values) {
        if (Number.isNaN(value)) continue;
        known++;
        const share = (value - low) / Math.max(high - low, 1e-12);
        counts[Math.min(Math.max(Math.floor(share * 32), 0), 31)]++;
      }
      const flat = this.histogram.getContext("2d");
      const { width, height } = this.histogram;
      const top = Math.max(...counts, 1);
      const tone = new Uint8Array(3);
      flat.clearRect(0, 0, width, height);
      counts.forEach((count, i) => {
        shade(map, (i + 0.5) / 32, tone, 0);
        flat.fillStyle = `rgb(${tone.join()})`;
        const tall = ((height - 12) * count) / top;
        flat.fillRect((i * width) / 32 + 1, height - 12 - tall, width / 32 - 2, tall);
        flat.fillRect((i * width) / 32, height - 9, width / 32, 9);
      });
      const words = `${this.set}: ${known} vertices between ${low} and ${high}, the fullest bar has ${top}`;
      this.histogram.setAttribute("aria-label", words);
      this.histogram.title = words;
    }

    // Landmarks: a click on each shape makes a pair.
    mark(on) {
      this.marking = on;
      this.undo.hidden = !on;
      this.said.textContent = on
        ? "Click a point of one shape, then the same point of the other. Three or more pairs count."
        : this.hint;
    }

    landmark(pane, vertex) {
      const side = this.panes.indexOf(pane);
      const last = this.marks.at(-1);
      if (last && last.includes(null)) last[side] = vertex;
      else this.marks.push(side ? [null, vertex] : [vertex, null]);
      this.tellMarks();
    }

    unmark() {
      this.marks.pop();
      this.tellMarks();
    }

    tellMarks() {
      const pairs = this.marks.filter((pair) => !pair.includes(null));
      this.said.textContent = `${pairs.length} pairs of landmarks${pairs.length < this.marks.length ? ", one waits for its other half" : ""}.`;
      this.section.dataset.marks = JSON.stringify(pairs);
      this.section.dispatchEvent(new CustomEvent("landmarks", { bubbles: true, detail: pairs }));
      this.panes.forEach(redraw);
    }

    landmarksOf(pane) {
      const side = this.panes.indexOf(pane);
      const all = this.marks.map((pair, i) => [pair[side], String(i + 1)]);
      return all.filter(([vertex]) => vertex !== null && vertex < pane.model.count);
    }

    turn() {
      if (!this.turning || !this.section.isConnected) return;
      for (const camera of new Set(this.panes.map((pane) => pane.camera))) camera.azimuth += 0.012;
      this.panes.forEach(redraw);
      requestAnimationFrame(() => this.turn());
    }

    rotate(pane, dx, dy) {
      pane.camera.azimuth -= dx;
      pane.camera.elevation = Math.min(1.55, Math.max(-1.55, pane.camera.elevation + dy));
      this.moved(pane);
    }

    shift(pane, dx, dy) {
      const { right, up } = axes(pane.camera);
      const step = pane.camera.distance * 0.0018;
      for (let k = 0; k < 3; k++) pane.camera.target[k] += step * (dy * up[k] - dx * right[k]);
      this.moved(pane);
    }

    zoom(pane, by) {
      pane.camera.distance = Math.min(30, Math.max(0.05, pane.camera.distance * by));
      this.moved(pane);
    }

    listen(pane) {
      const { canvas } = pane;
      const fingers = new Map();
      let far = 0;
      canvas.addEventListener("pointerdown", (event) => {
        fingers.set(event.pointerId, event);
        far = 0;
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        const last = fingers.get(event.pointerId);
        if (!last) return;
        const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
        far += Math.hypot(dx, dy);
        if (fingers.size > 1) {
          const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
          const gap = (e) => Math.hypot(e.clientX - other.clientX, e.clientY - other.clientY) || 1;
          this.zoom(pane, gap(last) / gap(event));
          this.shift(pane, dx / 2, dy / 2);
        } else if (last.buttons & 2 || last.shiftKey) {
          this.shift(pane, dx, dy);
        } else {
          this.rotate(pane, dx * 0.008, dy * 0.008);
        }
        fingers.set(event.pointerId, event);
      });
      const lift = (event) => {
        if (fingers.delete(event.pointerId) && event.type === "pointerup" && far < 4) this.pick(pane, event);
      };
      canvas.addEventListener("pointerup", lift);
      canvas.addEventListener("pointercancel", lift);
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      canvas.addEventListener("wheel", (event) => {
        // Until a pane is chosen the wheel moves the page.
        if (document.activeElement !== canvas) return;
        event.preventDefault();
        this.zoom(pane, Math.exp(Math.sign(event.deltaY) * 0.12));
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => {
        const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12] };
        if (turns[event.key]) this.rotate(pane, ...turns[event.key]);
        else if (event.key === "+" || event.key === "=") this.zoom(pane, 0.85);
        else if (event.key === "-") this.zoom(pane, 1 / 0.85);
        else if (event.key === "0") this.reset();
        else return;
        event.preventDefault();
      });
    }

    // A click on a shape: marks the vertex, and the one it is matched to; or sets a landmark.
    pick(pane, event) {
      pane.canvas.focus({ preventScroll: true });
      if (!pane.matrices || this.sliding) return;
      const target = this.panes.find(({ model }) => model.matches);
      const box = pane.canvas.getBoundingClientRect();
      const scale = pane.canvas.width / box.width;
      const found = nearest(pane, (event.clientX - box.left) * scale, (event.clientY - box.top) * scale, 14 * scale);
      if (found < 0) return;
      if (this.marking) return this.landmark(pane, found);
      if (!target) return;
      const source = this.panes[0];
      const at = pane === source ? matchedTo(target.model, source.model, found) : found;
      const image = at < 0 ? -1 : target.model.matches[at];
      source.marked = pane === source ? found : image < 0 ? undefined : image;
      target.marked = at < 0 ? undefined : at;
      const told = Object.entries(target.model.scalars).map(([name, values]) => {
        const value = at < 0 ? NaN : values[at];
        return `${name.toLowerCase()} ${Number.isNaN(value) ? "unknown" : value.toFixed(2)}`;
      });
      this.said.textContent = at < 0 || image < 0
        ? `Vertex ${found} has no counterpart.`
        : `Target vertex ${at} is matched to source vertex ${image}; ${told.join(", ")}.`;
      this.panes.forEach(redraw);
    }
  }

  function nearest(pane, x, y, reach) {
    let [best, depth] = [-1, Infinity];
    for (let i = 0; i < pane.model.count; i++) {
      const [px, py, pz] = project(pane, i);
      if (pz < depth && Math.hypot(px - x, py - y) < reach) [best, depth] = [i, pz];
    }
    return best;
  }

  // The target vertex whose match lies nearest to a source vertex.
  function matchedTo(target, source, vertex) {
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < target.count; i++) {
      const image = target.matches[i];
      if (image < 0) continue;
      let gap = 0;
      for (let k = 0; k < 3; k++) gap += (source.places[3 * image + k] - source.places[3 * vertex + k]) ** 2;
      if (gap < least) [best, least] = [i, gap];
    }
    return least < 0.01 ? best : -1;
  }

  // Fills a section: content is the header of a group, numbers its models in base64, by id.
  return (section, content, numbers) => {
    if (gl) return new Group(section, content, numbers);
    section.querySelector(".said").textContent = "This browser has no WebGL 2, so shapes cannot be shown.";
    return null;
  };
}

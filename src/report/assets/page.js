// Says which tile is under the pointer or the keyboard's cursor. Without it the page shows all the same.
(function () {
  'use strict';
  window.addEventListener('beforeprint', function () {
    document.querySelectorAll('details').forEach(function (d) { d.open = true; });
  });

  var source = document.getElementById('map-data');
  if (!source) return;
  var map = JSON.parse(source.textContent);
  var stage = document.getElementById('stage');
  var sheet = document.getElementById('sheet');
  var cursor = document.getElementById('cursor');
  var readout = document.getElementById('readout');

  function bytes(text) {
    var raw = atob(text);
    var out = new Uint8Array(raw.length);
    for (var i = 0; i < raw.length; ++i) out[i] = raw.charCodeAt(i);
    return out;
  }
  var tileAt = new Int32Array(bytes(map.tiles).buffer);
  var now = bytes(map.now);
  var sure = bytes(map.sure);
  var smoothed = bytes(map.smoothed);
  var then = map.then ? bytes(map.then) : null;
  var names = [];
  map.names.split('\n').reduce(function (before, entry) {
    var name = before.slice(0, entry.charCodeAt(0) - 48) + entry.slice(1);
    names.push(name);
    return name;
  }, '');

  function place(column, row) {
    var u = (column + 0.5) / map.width, v = (row + 0.5) / map.height, c = map.corners;
    function at(i) {
      return (c[0][i] * (1 - u) + c[1][i] * u) * (1 - v) + (c[2][i] * (1 - u) + c[3][i] * u) * v;
    }
    return at(0).toFixed(5) + ', ' + at(1).toFixed(5);
  }
  function part(text, strong) {
    var node = document.createElement(strong ? 'b' : 'span');
    node.textContent = text;
    readout.appendChild(node);
  }
  var column = -1, row = -1;
  function show(x, y) {
    x = Math.min(Math.max(x, 0), map.width - 1);
    y = Math.min(Math.max(y, 0), map.height - 1);
    if (x === column && y === row) return;
    column = x;
    row = y;
    cursor.hidden = false;
    cursor.style.left = 100 * (x + 0.5) / map.width + '%';
    cursor.style.top = 100 * (y + 0.5) / map.height + '%';
    cursor.style.width = 100 / map.width + '%';
    cursor.style.height = 100 / map.height + '%';
    readout.textContent = '';
    var tile = tileAt[y * map.width + x];
    if (tile < 0) {
      part('no tile', true);
      part(' at ' + place(x, y));
      return;
    }
    part(map.classes[now[tile]], true);
    part(', ' + Math.round(sure[tile] / 2) + ' % sure');
    if (smoothed[tile] !== now[tile]) part('; smoothed ' + map.classes[smoothed[tile]]);
    if (then && then[tile] !== 255) {
      part(then[tile] === now[tile] ? '; as in ' + map.thenName : '; ' + map.classes[then[tile]] + ' in ' + map.thenName);
    }
    part(' \u00b7 ' + place(x, y) + ' \u00b7 ' + names[tile]);
  }
  function point(event) {
    var box = sheet.getBoundingClientRect();
    show(Math.floor((event.clientX - box.left) / box.width * map.width),
         Math.floor((event.clientY - box.top) / box.height * map.height));
  }
  sheet.addEventListener('pointermove', point);
  sheet.addEventListener('pointerdown', point);
  stage.addEventListener('keydown', function (event) {
    var step = event.shiftKey ? 10 : 1;
    var move = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]}[event.key];
    if (!move) return;
    event.preventDefault();
    if (column < 0) show(Math.floor(map.width / 2), Math.floor(map.height / 2));
    else show(column + move[0], row + move[1]);
    cursor.scrollIntoView({block: 'nearest', inline: 'nearest'});
  });

  var zoom = 1;
  var ruler = document.getElementById('ruler');
  function measure() {
    var metres = +ruler.dataset.metres / zoom;
    var most = metres / 4;
    var length = Math.pow(10, Math.floor(Math.log10(most)));
    length *= most >= 5 * length ? 5 : most >= 2 * length ? 2 : 1;
    ruler.style.width = 100 * length / metres + '%';
    ruler.nextElementSibling.textContent = length >= 1000 ? length / 1000 + ' km' : length + ' m';
  }
  function setZoom(to) {
    zoom = Math.min(Math.max(to, 1), 16);
    var u = (stage.scrollLeft + stage.clientWidth / 2) / sheet.clientWidth;
    var v = (stage.scrollTop + stage.clientHeight / 2) / sheet.clientHeight;
    sheet.style.setProperty('--zoom', zoom);
    measure();
    stage.scrollLeft = u * sheet.clientWidth - stage.clientWidth / 2;
    stage.scrollTop = v * sheet.clientHeight - stage.clientHeight / 2;
  }
  document.getElementById('zoom').hidden = false;
  document.getElementById('zoom-in').addEventListener('click', function () { setZoom(zoom * 2); });
  document.getElementById('zoom-out').addEventListener('click', function () { setZoom(zoom / 2); });
})();

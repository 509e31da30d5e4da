// Its search runs in a worker that is made of a blob, which the page's policy does not let in.
Redoc.init("/openapi.json", { disableSearch: true }, document.getElementById("page"));

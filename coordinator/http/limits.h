#pragma once

#include <cstddef>
#include <cstdint>

namespace skein {

// What one client may make the server hold or wait for. Every bound is checked before anything is allocated for it.
struct HttpLimits {
  size_t head_bytes_max = 64 << 10;      // request line and headers; over it 431
  int headers_max = 100;                 // over it 431
  size_t body_bytes_max = 8 << 20;       // over it 413
  size_t bodies_bytes_max = 256 << 20;   // of all requests being read or parsed; over it 503
  size_t chunk_line_bytes_max = 1 << 10; // one chunk-size line with its extensions; over it 400
  int connections_max = 1024;            // over it 503 and close
  int idle_timeout_ms = 75'000;          // a kept-alive connection without a request
  int head_timeout_ms = 15'000;          // from a request's first byte to the end of its headers; over it 408
  int body_timeout_ms = 60'000;          // from the end of the headers to the end of the body; over it 408
  int write_timeout_ms = 30'000;         // for a client to take 64 KiB (or what is left); over it the connection is cut
  int linger_ms = 1'000;                 // how long a refused client may go on sending before its socket is closed
  size_t stream_bytes_max = 1 << 20;     // of a streamed answer that wait for earlier ones to be sent; then it is cut
  size_t pipelined_bytes_max = 64 << 10; // read ahead of a running request; then reading pauses
};

}  // namespace skein

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_QMP_H
#define CONTROL_QMP_H
/*
 * Monitors: QMP on byte streams (QEMU docs/interop/qmp-spec). A stream that is handed over belongs to its monitor, which closes it when
 * the peer does; no state outlives a stream. Loop 0.
 */
#include "kernel/error.h"

struct stream;

/* Greets, and serves until the stream ends. Any context of loop 0. When there are too many monitors or no memory, the stream is closed. */
void qmp_serve(struct stream *s, bool pretty);
unsigned qmp_monitors(void); /* that exist */
/* Ends all: what is queued goes out until the deadline. */
void co_qmp_close_all(uint64_t deadline_ns);
struct value *version_value(void); /* VersionInfo, for the greeting; NULL: no memory */
#endif

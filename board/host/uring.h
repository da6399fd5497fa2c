/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_HOST_URING_H
#define BOARD_HOST_URING_H
/*
 * The host form's only way to the kernel: one io_uring per loop. An operation is an object of the
 * caller's that stays until `done` was called (from the ring's poller; more than once while flags
 * has IORING_CQE_F_MORE). `res` is Linux's: a count, or a negative errno.
 *
 *     struct io_uring_sqe *sqe = uring_sqe(&f->op);
 *     io_uring_prep_read(sqe, fd, buf, len, off);
 *
 * uring_sqe sets user_data after which io_uring_prep_* may be called (they leave it alone). What
 * was queued is submitted once per loop turn, or earlier when the ring is full. All on the loop
 * that the operation belongs to.
 */
#include <liburing.h>

#include "kernel/compiler.h"

struct uring_op {
    void (*done)(struct uring_op *op, int res, uint32_t flags);
};
struct io_uring_sqe *uring_sqe(struct uring_op *op); /* never NULL */
/*
 * A loop's ring and its poller are made when they are first used: by board_turn in the first turn
 * at the latest. Without io_uring the process ends with an error line. The hook of host.h is called
 * from that poller on loop 0 after SIGTERM or SIGINT; without a hook the process ends at once,
 * cleanly.
 */
#endif

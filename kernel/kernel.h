/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H
/*
 * kernel/: what two rooms must agree on. Includes nothing above it; below it only boot/arch.h.
 *
 * Units: lengths and offsets are bytes (size_t in memory, uint64_t on media), times are nanoseconds
 * of board_clock_ns(). Contexts: "control path" runs on loop 0 in a coroutine and may allocate;
 * "data path" never allocates, locks or logs. co_ functions may yield and need a coroutine; all
 * others do not yield. Errors: kernel/error.h. Foreign bytes fail a request; asserts are for us.
 *
 *   board.h    what a machine must supply           loop.h   pollers, timers, posts        co.h
 * coroutines, queues, joins page.h     pages   pool.h  pools and credits    buf.h    data buffers
 * with head-room   iov.h     scatter-gather lists dma.h irq.h pci.h  devices nic.h    network cards
 * stream.h  byte streams that lend value.h schema.h   typed tables                 registry.h  who
 * exists                 error.h log.h trace.h fault.h endian.h list.h
 */
#include "kernel/board.h"
#include "kernel/buf.h"
#include "kernel/co.h"
#include "kernel/compiler.h"
#include "kernel/dma.h"
#include "kernel/endian.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/iov.h"
#include "kernel/list.h"
#include "kernel/log.h"
#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/pool.h"
#include "kernel/registry.h"
#include "kernel/schema.h"
#include "kernel/stream.h"
#include "kernel/trace.h"
#endif

# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += kernel/loop.c kernel/co.c kernel/co_sync.c kernel/pool.c kernel/buf.c kernel/page.c
SRC_ALL += kernel/iov.c kernel/stream.c kernel/nic.c kernel/log.c kernel/error.c kernel/trace.c
SRC_ALL += kernel/fault.c
SRC_ALL += kernel/value.c kernel/schema.c kernel/keyval.c
SRC_FW  += kernel/newlib.c

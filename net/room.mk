# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += net/nbd/server.c net/nbd/export.c net/nbd/handshake.c net/nbd/options.c
SRC_ALL += net/nbd/transmission.c net/nbd/command.c net/nbd/read.c net/nbd/status.c net/nbd/reply.c

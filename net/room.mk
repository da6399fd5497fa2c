# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += net/lwip_port.c net/lwip_netif.c net/lwip_tx.c net/lwip_hooks.c
SRC_ALL += net/lwip_tcp.c net/lwip_tcp_rx.c net/lwip_listen.c net/lwip_netdev.c
SRC_FW  += net/lwip_fw.c
SRC_ALL += net/nbd/server.c net/nbd/export.c net/nbd/handshake.c net/nbd/options.c
SRC_ALL += net/nbd/transmission.c net/nbd/command.c net/nbd/read.c net/nbd/status.c net/nbd/reply.c

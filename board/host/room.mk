# SPDX-License-Identifier: BSD-2-Clause
SRC_HOST += board/host/board.c board/host/uring.c board/host/backtrace.c
SRC_HOST += board/host/main.c
MAIN_HOST := board/host/main.c
SRC_HOST += board/host/socket.c board/host/listen.c board/host/file.c board/host/nbdcmd.c board/host/create.c \
            board/host/check.c board/host/verb.c board/host/lock.c

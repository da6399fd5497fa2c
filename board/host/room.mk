SRC_HOST += board/host/board.c board/host/uring.c board/host/backtrace.c

SRC_ALL += board/main.c
SRC_FW  += board/firmware.c board/fw_cfg.c

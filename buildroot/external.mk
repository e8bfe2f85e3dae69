include $(sort $(wildcard $(BR2_EXTERNAL_ZOSIA_PATH)/package/*/*.mk))

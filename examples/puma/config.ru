require_relative "drain"

use Drain
run lambda { |env|
  text = "hello from worker #{ENV["CLUSTERD_WORKER"]}, slot #{ENV["CLUSTERD_SLOT"]}\n"
  [200, { "content-type" => "text/plain" }, [text]]
}
